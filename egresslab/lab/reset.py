"""Undoing whatever a participant did to a lab, through the API alone: in seconds, and without taking the lab down.

What belongs to the lab is known by name (system namespaces, the outside, the labels that kubelets set); everything else
goes. It must not look at who made a thing: a participant who is lost has made things with every tool.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from egresslab.api.connection import ApiError
from egresslab.api.resources import (
    CILIUM_POLICIES,
    CONFIGMAPS,
    DAEMONSETS,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    DEPLOYMENTS,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    FAULTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    Object,
    Resource,
)
from egresslab.errors import LabError
from egresslab.lab import firewall, waits
from egresslab.lab.client import Client

KEPT_NAMESPACES = frozenset({"default", "kube-system", "kube-public", "kube-node-lease", "outside", "egresslab-system"})
KEPT_IN_DEFAULT = frozenset({("Service", "kubernetes"), ("ConfigMap", "kube-root-ca.crt")})
ADMISSION = (
    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
    ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
    ("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding"),
    ("mutatingadmissionpolicies", "MutatingAdmissionPolicy"),
)
CLUSTER_WIDE = (
    *(Resource("admissionregistration.k8s.io", "v1", plural, kind, namespaced=False) for plural, kind in ADMISSION),
    CILIUM_POLICIES,
    DECKHOUSE_POLICIES,
    DECKHOUSE_GATEWAYS,
    EGRESSLAB_POLICIES,
    EGRESSLAB_GATEWAYS,
    FAULTS,
)
"""What refuses or changes requests goes first, so that it cannot be in the way of the rest."""
IN_DEFAULT = (DEPLOYMENTS, DAEMONSETS, REPLICASETS, SERVICES, CONFIGMAPS, PODS)
"""Owners before what they own, so that nothing is made again."""
SYSTEM_LABELS = ("kubernetes.io/", "node-role.kubernetes.io/", "beta.kubernetes.io/", "egresslab.dev/")
SYSTEM_TAINTS = ("node.kubernetes.io/", "node-role.kubernetes.io/")
RECORDS = "egresslab.dev/labels-before-"


@dataclass(frozen=True, slots=True)
class Reset:
    """What was undone, and how long it took in seconds."""

    undone: tuple[str, ...]
    seconds: float


def reset(client: Client, *, timeout_s: float = 60.0) -> Reset:
    """Undo everything and wait until it is gone; raises `LabError` when something does not go in time."""
    started = time.monotonic()
    undone = [*_objects(client), *_nodes(client), *_firewall(client)]
    waits.wait_for("everything to be gone", lambda: _gone(client), timeout_s=timeout_s)
    if any(what.startswith(FAULTS.kind) for what in undone):
        with suppress(LabError):
            waits.wait_for("mended nodes to be Ready", lambda: not _not_ready(client), timeout_s=timeout_s)
    if not_ready := _not_ready(client):
        raise LabError(
            "is not Ready, and the API alone cannot mend it",
            object=f"node {', '.join(not_ready)}",
            fix="sudo egresslab fault list; sudo egresslab fault heal NODE; or egresslab labs reset --hard",
        )
    return Reset(tuple(undone), time.monotonic() - started)


def _not_ready(client: Client) -> list[str]:
    return [node["metadata"]["name"] for node in client.list(NODES) if not _ready(node)]


def _objects(client: Client) -> Iterator[str]:
    for resource in CLUSTER_WIDE:
        yield from (f"{resource.kind} {name}" for name in _delete_all(client, resource, None))
    for namespace in _stray_namespaces(client):
        if client.delete(NAMESPACES, namespace):
            yield f"Namespace {namespace}"
    for resource in IN_DEFAULT:
        yield from (f"{resource.kind} default/{name}" for name in _delete_all(client, resource, "default"))


def _delete_all(client: Client, resource: Resource, namespace: str | None) -> Iterator[str]:
    for body in _strays(client, resource, namespace):
        name = body["metadata"]["name"]
        if client.delete(resource, name, namespace, grace_s=1 if resource == PODS else None):
            yield name


def _strays(client: Client, resource: Resource, namespace: str | None) -> list[Object]:
    """Objects that do not belong to the lab; those of a kind that it does not serve are none."""
    try:
        found = client.list(resource, namespace)
    except ApiError as error:
        if error.status == 404:
            return []
        raise
    return [body for body in found if (resource.kind, body["metadata"]["name"]) not in KEPT_IN_DEFAULT]


def _stray_namespaces(client: Client) -> list[str]:
    names = [str(body["metadata"]["name"]) for body in client.list(NAMESPACES)]
    return [name for name in names if name not in KEPT_NAMESPACES]


def _nodes(client: Client) -> Iterator[str]:
    for node in client.list(NODES):
        metadata, spec = node["metadata"], node.get("spec") or {}
        name = metadata["name"]
        labels = [key for key in metadata.get("labels") or {} if not key.startswith(SYSTEM_LABELS)]
        records = [key for key in metadata.get("annotations") or {} if key.startswith(RECORDS)]
        taints = spec.get("taints") or []
        kept = [taint for taint in taints if taint["key"].startswith(SYSTEM_TAINTS) and "unsched" not in taint["key"]]
        patch: Object = {}
        if labels or records:
            patch["metadata"] = {"labels": dict.fromkeys(labels), "annotations": dict.fromkeys(records)}
        if spec.get("unschedulable"):
            patch["spec"] = {"unschedulable": None}
            yield f"cordon of node {name}"
        if len(kept) != len(taints):
            patch.setdefault("spec", {})["taints"] = kept or None
            yield from (f"taint {taint['key']} of node {name}" for taint in taints if taint not in kept)
        if patch:
            client.merge(NODES, name, patch)
        yield from (f"label {key} of node {name}" for key in labels)


def _firewall(client: Client) -> Iterator[str]:
    found = client.find(CONFIGMAPS, firewall.NAME, firewall.NAMESPACE)
    if found and found.get("data") and client.delete(CONFIGMAPS, firewall.NAME, firewall.NAMESPACE):
        yield "the allow-list outside"


def _gone(client: Client) -> bool | waits.Pending:
    left = [f"namespace {name}" for name in _stray_namespaces(client)]
    left += [f"pod default/{body['metadata']['name']}" for body in _strays(client, PODS, "default")]
    for resource in CLUSTER_WIDE:
        left += [f"{resource.kind} {body['metadata']['name']}" for body in _strays(client, resource, None)]
    return waits.Pending(", ".join(left)) if left else True


def _ready(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
