"""May they: Kubernetes' RBAC, evaluated from the Role, ClusterRole and binding objects ("Using RBAC Authorization").

Rules only ever allow. Members of system:masters may do everything; every other right comes from an object that kubectl
can show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from egresslab.api.resources import Object
from egresslab.cluster.apiserver import status
from egresslab.cluster.apiserver.authentication import ANONYMOUS, User
from egresslab.cluster.apiserver.store import Store

MASTERS = "system:masters"
_ACCOUNT = "system:serviceaccount:"
_GROUP = "rbac.authorization.k8s.io"
_BUCKETS = ("clusterroles", "clusterrolebindings", "roles", "rolebindings")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a request wants to do; a non-resource request has `path` alone. `resource` has its /subresource."""

    verb: str
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Authorizer:
    """Decides attempts; what applies to a user is worked out once until an RBAC object changes."""

    def __init__(self, store: Store) -> None:
        self._buckets = {name: store.bucket(f"{name}.{_GROUP}") for name in _BUCKETS}
        self._rules: dict[tuple[str, tuple[str, ...]], list[tuple[str, Object]]] = {}
        for bucket in self._buckets.values():
            bucket.listeners.append(lambda change: self._rules.clear())

    def allows(self, user: User, attempt: Attempt) -> bool:
        """Whether some rule of some binding of the user covers the attempt."""
        if MASTERS in user.groups:
            return True
        return any(
            (not where or where == attempt.namespace) and _covers(rule, attempt) for where, rule in self.rules(user)
        )

    def impersonated(self, user: User, headers: Headers) -> User:
        """Whom the user acts as (Kubernetes "User impersonation"); raises 403 when that is not allowed."""
        name, groups = headers["impersonate-user"], headers.getlist("impersonate-group")
        account = name.split(":")[2:] if name.startswith(_ACCOUNT) and name.count(":") == 3 else None
        if account:
            wanted = [Attempt("impersonate", "", "serviceaccounts", account[0], account[1])]
        else:
            wanted = [Attempt("impersonate", "", "users", name=name)]
        for attempt in [*wanted, *(Attempt("impersonate", "", "groups", name=group) for group in groups)]:
            if not self.allows(user, attempt):
                raise status.forbidden("", attempt.resource, attempt.name, explain(user, attempt))
        if account and not groups:
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{account[0]}"]
        if name == ANONYMOUS.name:
            return User(name, groups=(*groups, *ANONYMOUS.groups))
        return User(name, groups=tuple(dict.fromkeys([*groups, "system:authenticated"])))

    def rules(self, user: User) -> list[tuple[str, Object]]:
        """(namespace, or "" for everywhere; PolicyRule) that apply to the user."""
        key = (user.name, user.groups)
        if (known := self._rules.get(key)) is None:
            if len(self._rules) > 1000:
                self._rules.clear()
            known = self._rules[key] = self._collect(user)
        return known

    def _collect(self, user: User) -> list[tuple[str, Object]]:
        found = []
        for plural in ("clusterrolebindings", "rolebindings"):
            for entry in self._buckets[plural].entries.values():
                binding, namespace = entry.object(), entry.key[0]
                if any(_is(subject, user, namespace) for subject in binding.get("subjects") or ()):
                    found += [(namespace, rule) for rule in self._role(binding["roleRef"], namespace)]
        return found

    def _role(self, reference: Object, namespace: str) -> list[Object]:
        cluster = reference.get("kind") == "ClusterRole"
        bucket = self._buckets["clusterroles" if cluster else "roles"]
        entry = bucket.entries.get(("" if cluster else namespace, reference.get("name", "")))
        return list(entry.object().get("rules") or ()) if entry else []


def _is(subject: Object, user: User, namespace: str) -> bool:
    kind, name = subject.get("kind"), subject.get("name", "")
    if kind == "User":
        return bool(name == user.name)
    if kind == "Group":
        return name in user.groups
    return bool(user.name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}")


def _covers(rule: Object, attempt: Attempt) -> bool:
    if not _has(rule.get("verbs"), attempt.verb):
        return False
    if attempt.path:
        return any(
            path in ("*", attempt.path) or (path.endswith("*") and attempt.path.startswith(path[:-1]))
            for path in rule.get("nonResourceURLs") or ()
        )
    if not _has(rule.get("apiGroups"), attempt.group):
        return False
    resources: list[Any] = rule.get("resources") or []
    _, slash, subresource = attempt.resource.partition("/")
    if attempt.resource not in resources and "*" not in resources and not (slash and f"*/{subresource}" in resources):
        return False
    names = rule.get("resourceNames")
    return not names or attempt.name in names


def _has(values: list[str] | None, wanted: str) -> bool:
    return values is not None and (wanted in values or "*" in values)


def explain(user: User, attempt: Attempt) -> str:
    """Kubernetes' sentence for a refused attempt."""
    if attempt.path:
        return f'User "{user.name}" cannot {attempt.verb} path "{attempt.path}"'
    where = f'in the namespace "{attempt.namespace}"' if attempt.namespace else "at the cluster scope"
    return (
        f'User "{user.name}" cannot {attempt.verb} resource "{attempt.resource}" in API group "{attempt.group}" {where}'
    )
