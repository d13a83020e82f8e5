"""Kubernetes' own API server and etcd instead of ours, where `KUBEBUILDER_ASSETS` names a directory that holds them.

That is envtest's convention. Here is how the two are started; whoever calls keeps them alive.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from egresslab.api.resources import Object
from egresslab.cluster.rights import NODE_RULES
from egresslab.errors import ClusterError

VARIABLE = "KUBEBUILDER_ASSETS"
ETCD, API_SERVER = "etcd", "kube-apiserver"
ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Assets:
    """The directory with both programs."""

    directory: Path

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> Assets | None:
        """From the variable, None when it is not set; raises `ClusterError` when a program is not there."""
        if not environment.get(VARIABLE):
            return None
        directory = Path(environment[VARIABLE]).resolve()
        for name in (ETCD, API_SERVER):
            if not os.access(directory / name, os.X_OK):
                raise ClusterError(
                    f"has no program {name}",
                    object=VARIABLE,
                    value=str(directory),
                    fix=f"unset {VARIABLE} for the built-in API server, or see docs/kubernetes-binaries.md",
                )
        return cls(directory)

    def etcd(self, place: Place) -> list[str]:
        """etcd with one member, that only who holds a certificate for clients may talk to."""
        certificates = {"cert-file": place.pki / "apiserver.crt", "key-file": place.pki / "apiserver.key"}
        trust = {"trusted-ca-file": place.pki / "ca.crt", "client-cert-auth": "true"}
        here, peers = place.etcd_url(), place.etcd_url(1)
        flags: dict[str, object] = {
            "name": "lab",
            "data-dir": place.state / "etcd",
            "listen-client-urls": here,
            "advertise-client-urls": here,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"lab={peers}",
            **certificates,
            **trust,
            **{f"peer-{name}": value for name, value in {**certificates, **trust}.items()},
            # A lab's state lives and dies with its machine, as the built-in server's does.
            "unsafe-no-fsync": "true",
            "log-level": "error",
        }
        return [str(self.directory / ETCD), *_flags(flags)]

    def api_server(self, place: Place) -> list[str]:
        """kube-apiserver with the built-in server's users, certificates, addresses and rights."""
        client = {"certfile": place.pki / "apiserver-client.crt", "keyfile": place.pki / "apiserver-client.key"}
        flags: dict[str, object] = {
            "bind-address": place.address,
            "advertise-address": place.address,
            "secure-port": place.port,
            "tls-cert-file": place.pki / "apiserver.crt",
            "tls-private-key-file": place.pki / "apiserver.key",
            "cert-dir": place.state,
            "token-auth-file": place.tokens,
            "authorization-mode": "RBAC",
            "service-cluster-ip-range": place.services,
            "service-account-issuer": ISSUER,
            "service-account-key-file": place.pki / "apiserver.crt",
            "service-account-signing-key-file": place.pki / "apiserver.key",
            "etcd-servers": place.etcd_url(),
            "etcd-cafile": place.pki / "ca.crt",
            **{f"etcd-{name}": value for name, value in client.items()},
            "kubelet-certificate-authority": place.pki / "ca.crt",
            "kubelet-client-certificate": client["certfile"],
            "kubelet-client-key": client["keyfile"],
            "kubelet-preferred-address-types": "InternalIP",
            # exec and attach go to kubelets as clients sent them: over WebSocket.
            "feature-gates": "TranslateStreamCloseWebsocketRequests=false",
            "allow-privileged": "true",
            "profiling": "false",
        }
        if ip_address(place.address).is_loopback:
            flags["endpoint-reconciler-type"] = "none"
        if not place.accounts:
            flags["disable-admission-plugins"] = "ServiceAccount"
        return [str(self.directory / API_SERVER), *_flags(flags)]


def node_rights() -> list[Object]:
    """What the built-in server lets nodes do and kube-apiserver does not, for everybody in system:nodes."""
    version, name = "rbac.authorization.k8s.io/v1", "egresslab:node"
    role = {"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": name}, "rules": NODE_RULES}
    group = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": version,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:nodes"}],
    }
    return [role, binding]


@dataclass(frozen=True, slots=True)
class Place:
    """Where they run. `pki` holds ca, apiserver and apiserver-client (.crt, .key); etcd takes `etcd_port` and the next
    port on the loopback. `accounts` says whether pods must have a service account.
    """

    state: Path
    pki: Path
    tokens: Path
    address: str
    port: int
    etcd_port: int = 2379
    services: str = "10.96.0.0/16"
    accounts: bool = True

    def etcd_url(self, offset: int = 0) -> str:
        """Of its clients, and, one port further, of its peers."""
        return f"https://127.0.0.1:{self.etcd_port + offset}"


def _flags(flags: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


def inside(namespace: str, command: list[str]) -> list[str]:
    """The command that runs another in a network namespace (a name in /run/netns)."""
    return [sys.executable, "-m", "egresslab.cluster.inside", namespace, *command]
