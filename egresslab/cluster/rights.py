"""Rights of the cluster's own users, as RBAC rules: what a node may do, on the built-in API server and on any other."""

from __future__ import annotations

from egresslab.api.resources import Object

READ = ["get", "list", "watch"]
WRITE = [*READ, "create", "update", "patch", "delete", "deletecollection"]


def rule(groups: list[str], resources: list[str], verbs: list[str]) -> Object:
    """One PolicyRule."""
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


NODE_RULES = [
    rule([""], ["nodes"], ["get", "list", "watch", "create", "update", "patch", "delete"]),
    rule([""], ["nodes/status", "pods/status"], ["update", "patch"]),
    rule([""], ["pods"], ["get", "list", "watch", "create", "delete"]),
    rule([""], ["pods/eviction", "serviceaccounts/token"], ["create"]),
    rule([""], ["services", "endpoints", "namespaces", "configmaps", "secrets", "serviceaccounts"], READ),
    rule(["discovery.k8s.io"], ["endpointslices"], READ),
    rule(["", "events.k8s.io"], ["events"], ["create", "update", "patch"]),
    rule(["coordination.k8s.io"], ["leases"], ["get", "create", "update", "patch", "delete"]),
    rule(["authentication.k8s.io"], ["tokenreviews"], ["create"]),
    rule(["authorization.k8s.io"], ["subjectaccessreviews"], ["create"]),
]
