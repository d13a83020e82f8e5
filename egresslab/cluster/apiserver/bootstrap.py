"""What a fresh cluster has before anyone asks: namespaces, roles of the system's own users, priority classes, and the
`kubernetes` service that leads to this API server.

Put there at every start where it is missing; what somebody changed is left alone.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from egresslab.api.resources import Object
from egresslab.cluster.apiserver.authentication import User
from egresslab.cluster.apiserver.registry import Registry
from egresslab.cluster.apiserver.requests import WriteOptions
from egresslab.cluster.apiserver.store import Store
from egresslab.cluster.apiserver.writing import Writer
from egresslab.cluster.rights import NODE_RULES, READ, WRITE, rule

_RBAC = "rbac.authorization.k8s.io"
_RBAC_VERSION = f"{_RBAC}/v1"
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_WORKLOADS = [
    rule([""], ["pods", "pods/log", "pods/exec", "pods/attach", "pods/eviction", "services", "endpoints"], WRITE),
    rule([""], ["configmaps", "secrets", "serviceaccounts", "serviceaccounts/token"], WRITE),
    rule(["apps"], ["*"], WRITE),
    rule(["policy"], ["poddisruptionbudgets"], WRITE),
    rule(["", "events.k8s.io"], ["events"], READ),
    rule([""], ["namespaces"], READ),
]
_VIEW = [
    rule(
        [""],
        ["pods", "pods/log", "services", "endpoints", "configmaps", "serviceaccounts", "events", "namespaces"],
        READ,
    ),
    rule(["apps", "discovery.k8s.io", "events.k8s.io", "policy"], ["*"], READ),
]
_DISCOVERY = {
    "nonResourceURLs": [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
    ],
    "verbs": ["get"],
}
_BASIC = [
    rule(["authorization.k8s.io"], ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], ["create"]),
    rule(["authentication.k8s.io"], ["selfsubjectreviews"], ["create"]),
]
_EVERYTHING = [rule(["*"], ["*"], ["*"]), {"nonResourceURLs": ["*"], "verbs": ["*"]}]
_ROLES: dict[str, list[Object]] = {
    "cluster-admin": _EVERYTHING,
    "admin": [*_WORKLOADS, rule([_RBAC], ["roles", "rolebindings"], WRITE)],
    "edit": _WORKLOADS,
    "view": _VIEW,
    "system:node": NODE_RULES,
    "system:discovery": [_DISCOVERY],
    "system:basic-user": _BASIC,
    "system:kubelet-api-admin": [rule([""], ["nodes", "nodes/*"], ["*"])],
}
_BINDINGS = {
    "cluster-admin": ("cluster-admin", "Group", "system:masters"),
    "system:node": ("system:node", "Group", "system:nodes"),
    "system:discovery": ("system:discovery", "Group", "system:authenticated"),
    "system:basic-user": ("system:basic-user", "Group", "system:authenticated"),
    "system:kubelet-api-admin": ("system:kubelet-api-admin", "User", "system:apiserver"),
}
_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def _objects() -> list[tuple[str, str, Object]]:
    """(group, plural, object) of everything, in order."""
    found: list[tuple[str, str, Object]] = []
    for name in _NAMESPACES:
        found.append(("", "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    for name, rules in _ROLES.items():
        head: Object = {
            "apiVersion": _RBAC_VERSION,
            "kind": "ClusterRole",
            "metadata": {"name": name, "labels": labels},
        }
        found.append((_RBAC, "clusterroles", {**head, "rules": rules}))
    for name, (role, kind, subject) in _BINDINGS.items():
        reference = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role}
        head = {"apiVersion": _RBAC_VERSION, "kind": "ClusterRoleBinding", "metadata": {"name": name, "labels": labels}}
        subjects = [{"apiGroup": _RBAC, "kind": kind, "name": subject}]
        found.append((_RBAC, "clusterrolebindings", {**head, "roleRef": reference, "subjects": subjects}))
    for name, value in _PRIORITIES.items():
        head = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
        found.append(("scheduling.k8s.io", "priorityclasses", {**head, "value": value}))
    return found


async def bootstrap(
    store: Store,
    registry: Registry,
    writer: Writer,
    services: IPv4Network | IPv6Network,
    endpoint: tuple[str, int] | None,
) -> None:
    """Create what is missing. `endpoint` is the address that pods reach this server at, if they can."""
    options = WriteOptions(User("system:apiserver"), "kube-apiserver")
    for group, plural, obj in _objects():
        kind = registry.named(plural, group)
        if ("", obj["metadata"]["name"]) not in store.bucket(kind.bucket).entries:
            await writer.create(kind, "", obj, options)
    first = str(services[1])
    if ("default", "kubernetes") not in store.bucket("services").entries:
        await writer.create(registry.named("services"), "default", _service(first), options)
    if endpoint is not None:
        await _endpoints(store, registry, writer, options, endpoint)


def _service(address: str) -> Object:
    labels = {"component": "apiserver", "provider": "kubernetes"}
    port = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {"clusterIP": address, "ports": [port]},
    }


async def _endpoints(
    store: Store, registry: Registry, writer: Writer, options: WriteOptions, endpoint: tuple[str, int]
) -> None:
    """The one Endpoints and EndpointSlice that no controller keeps."""
    host, port = endpoint
    ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    plain: Object = {"subsets": [{"addresses": [{"ip": host}], "ports": ports}]}
    labels = {"kubernetes.io/service-name": "kubernetes"}
    family = "IPv6" if ":" in host else "IPv4"
    sliced: Object = {
        "addressType": family,
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
        "ports": ports,
    }
    mirrored = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    for kind, content, marks in (
        (registry.named("endpoints"), plain, mirrored),
        (registry.named("endpointslices", "discovery.k8s.io"), sliced, labels),
    ):
        body: dict[str, Any] = {"apiVersion": kind.api_version, "kind": kind.kind, **content}
        body["metadata"] = {"name": "kubernetes", "labels": marks}
        if ("default", "kubernetes") in store.bucket(kind.bucket).entries:
            await writer.replace(kind, "default", "kubernetes", body, options)
        else:
            await writer.create(kind, "default", body, options)
