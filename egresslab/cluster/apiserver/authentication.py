"""Who is asking: bearer tokens from a file (as kube-apiserver's --token-auth-file) and signed service account tokens.

A service account token is bound: it ends with its account, and with its pod if it names one. Tokens are never logged.
"""

from __future__ import annotations

import csv
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from egresslab.api.resources import Object
from egresslab.cluster.apiserver.store import Store

ISSUER = "https://kubernetes.default.svc.cluster.local"
ALGORITHM = "ES256"
LONGEST_TOKEN_S = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated user (authentication/v1 `UserInfo`)."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = field(default_factory=dict, compare=False)

    def info(self) -> Object:
        """As `UserInfo`."""
        info: Object = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            info["uid"] = self.uid
        if self.extra:
            info["extra"] = self.extra
        return info


ANONYMOUS = User("system:anonymous", groups=("system:unauthenticated",))


def read_tokens(path: Path) -> dict[str, User]:
    """Users by token; raises ValueError for a line that is not `token,user,uid[,"group1,group2"]`."""
    users = {}
    with path.open(newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if not row or row[0].startswith("#"):
                continue
            if len(row) < 3:
                raise ValueError(f'{path}:{number}: expected token,user,uid[,"group1,group2"]')
            groups = tuple(group.strip() for group in row[3].split(",")) if len(row) > 3 and row[3] else ()
            users[row[0]] = User(row[1], row[2], (*groups, "system:authenticated"))
    return users


class Authenticator:
    """Token -> user. The signing key is kept with the state, so tokens outlive restarts."""

    def __init__(self, store: Store, static: dict[str, User]) -> None:
        self._store = store
        self._static = static
        pem = store.fact("service-account-key", _new_key)
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._public = key.public_key()

    def user(self, token: str) -> User | None:
        """The token's user, or None for a token that is unknown, expired or no longer bound to anything."""
        if (known := self._static.get(token)) is not None:
            return known
        if token.count(".") != 2:
            return None
        try:
            claims = jwt.decode(
                token, self._public, algorithms=[ALGORITHM], issuer=ISSUER, options={"verify_aud": False}
            )
        except jwt.InvalidTokenError:
            return None
        return self._bound(claims.get("kubernetes.io") or {})

    def _bound(self, claim: dict[str, Any]) -> User | None:
        namespace, account = claim.get("namespace", ""), claim.get("serviceaccount", {})
        pod = claim.get("pod")
        if not self._exists("serviceaccounts", namespace, account) or (
            pod and not self._exists("pods", namespace, pod)
        ):
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        extra = {}
        if pod:
            extra["authentication.kubernetes.io/pod-name"] = [pod["name"]]
            extra["authentication.kubernetes.io/pod-uid"] = [pod["uid"]]
        return User(f"system:serviceaccount:{namespace}:{account['name']}", account.get("uid", ""), groups, extra)

    def _exists(self, bucket: str, namespace: str, reference: dict[str, Any]) -> bool:
        entry = self._store.bucket(bucket).entries.get((namespace, reference.get("name", "")))
        return entry is not None and entry.uid == reference.get("uid")

    def issue(self, account: Object, pod: Object | None, audiences: list[str], seconds: int) -> tuple[str, int]:
        """A signed token for a service account, bound to a pod if given; returns it and its expiry (Unix time, s)."""
        now = int(time.time())
        expires = now + max(600, min(seconds, LONGEST_TOKEN_S))
        namespace, name = account["metadata"]["namespace"], account["metadata"]["name"]
        bound: Object = {"namespace": namespace, "serviceaccount": {"name": name, "uid": account["metadata"]["uid"]}}
        if pod is not None:
            bound["pod"] = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        claims = {
            "iss": ISSUER,
            "aud": audiences or [ISSUER],
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "iat": now,
            "nbf": now,
            "exp": expires,
            "jti": secrets.token_hex(16),
            "kubernetes.io": bound,
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM), expires


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
