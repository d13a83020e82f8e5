"""What a chapter leaves behind, found by looking at the cluster before and after, and removed by the run's label.

The chapter cleans up after itself; this is for chapters that do not live to do so, and it tells on those that forget.
"""

from __future__ import annotations

from dataclasses import dataclass

from egresslab.api.connection import ApiError
from egresslab.api.resources import (
    CILIUM_POLICIES,
    CONFIGMAPS,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    FAULTS,
    NAMESPACES,
    NODES,
    PODS,
    Object,
    Resource,
)
from egresslab.lab import firewall as firewall_outside
from egresslab.lab.client import Client
from egresslab.lab.ownership import RUN_LABEL, recorded_labels, restore_labels

WATCHED = (
    NAMESPACES,
    CILIUM_POLICIES,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    FAULTS,
)
IGNORED_LABELS = ("egresslab.dev/",)
"""Prefixes of node labels that the system itself sets."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Names of everything that a chapter could leave behind."""

    objects: frozenset[str]
    labels: frozenset[str]

    def beyond(self, before: Snapshot) -> tuple[str, ...]:
        """What is there now and was not before, and labels that were there and are not now."""
        missing = (f"{label} (removed)" for label in before.labels - self.labels)
        return tuple(sorted([*(self.objects - before.objects), *(self.labels - before.labels), *missing]))


def snapshot(client: Client) -> Snapshot:
    """Look at the cluster; a kind that it does not serve has no objects."""
    objects = {
        f"{resource.kind} {body['metadata']['name']}" for resource in WATCHED for body in _list(client, resource)
    }
    objects |= {f"Pod default/{body['metadata']['name']}" for body in client.list(PODS, "default")}
    firewall = client.find(CONFIGMAPS, firewall_outside.NAME, firewall_outside.NAMESPACE)
    objects |= {
        f"{key} on the firewall outside: {value!r}" for key, value in ((firewall or {}).get("data") or {}).items()
    }
    labels: set[str] = set()
    for node in client.list(NODES):
        name, own = node["metadata"]["name"], node["metadata"].get("labels") or {}
        labels |= {f"label {k}={v} of node {name}" for k, v in own.items() if not k.startswith(IGNORED_LABELS)}
        taints = node.get("spec", {}).get("taints") or []
        labels |= {f"taint {taint['key']}:{taint['effect']} of node {name}" for taint in taints}
    return Snapshot(frozenset(objects), frozenset(labels))


def reap(client: Client, run: str) -> tuple[str, ...]:
    """Undo what the run recorded in the cluster, without waiting; returns what was undone."""
    reaped: list[str] = []
    for resource in WATCHED[1:] + WATCHED[:1]:
        for body in _list(client, resource, labelSelector=f"{RUN_LABEL}={run}"):
            name = body["metadata"]["name"]
            if body["metadata"].get("deletionTimestamp") is None and client.delete(resource, name):
                reaped.append(f"{resource.kind} {name}")
    for node in client.list(NODES):
        if before := recorded_labels(node, run):
            restore_labels(client, node["metadata"]["name"], run, before)
            reaped += [f"label {key} of node {node['metadata']['name']}" for key in before]
    firewall = client.find(CONFIGMAPS, firewall_outside.NAME, firewall_outside.NAMESPACE)
    if firewall and (firewall["metadata"].get("labels") or {}).get(RUN_LABEL) == run:
        client.delete(CONFIGMAPS, firewall_outside.NAME, firewall_outside.NAMESPACE)
        reaped.append("the allow-list outside")
    return tuple(reaped)


def terminating(client: Client) -> bool:
    """Whether a namespace is on its way out, so that looking again later is worth it."""
    return any(body["metadata"].get("deletionTimestamp") for body in client.list(NAMESPACES))


def _list(client: Client, resource: Resource, **selectors: str) -> list[Object]:
    try:
        return client.list(resource, None, **selectors)
    except ApiError as error:
        if error.status == 404:
            return []
        raise
