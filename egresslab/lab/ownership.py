"""What a chapter made, written down as it is made, so that it can be taken away again.

Cleaning up goes by this record, never by a name pattern. Namespaces and cluster-wide objects also carry the run's
label, so that a runner can find them after the kernel that made them is dead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from egresslab.api.resources import NAMESPACES, NODES, Object, Resource
from egresslab.lab.client import Client

RUN_LABEL = "egresslab.dev/run"


@dataclass(frozen=True, slots=True)
class Owned:
    """An object that a chapter made."""

    resource: Resource
    name: str
    namespace: str | None = None

    def __str__(self) -> str:
        return f"{self.resource.kind.lower()}/{self.name}" + (f" in {self.namespace}" if self.namespace else "")


@dataclass(slots=True)
class Ledger:
    """The record of one chapter's run."""

    run: str
    objects: list[Owned] = field(default_factory=list)
    labels: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Of each node that was labelled, the labels as they were before; None for one that was not there."""

    def stamp(self, body: Object, resource: Resource) -> Object:
        """The object with the run's label, if it is of the kinds that outlive a namespace."""
        if resource.namespaced:
            return body
        metadata = body["metadata"]
        return {**body, "metadata": {**metadata, "labels": {**(metadata.get("labels") or {}), RUN_LABEL: self.run}}}

    def note(self, owned: Owned) -> None:
        """Remember an object; a second time changes nothing."""
        if owned not in self.objects:
            self.objects.append(owned)

    def set_label(self, client: Client, node: str, key: str, value: str | None) -> None:
        """Set a node's label, or remove it (None), and write down on the node itself what it was before."""
        known = client.get(NODES, node)["metadata"].get("labels") or {}
        before = self.labels.setdefault(node, {})
        before.setdefault(key, known.get(key))
        record = {record_name(self.run): json.dumps(before)}
        client.merge(NODES, node, {"metadata": {"labels": {key: value}, "annotations": record}})

    def clear(self, client: Client) -> Iterator[str]:
        """Undo everything, last made first; yields what was undone. What is already gone is no error."""
        while self.labels:
            node, before = self.labels.popitem()
            restore_labels(client, node, self.run, before)
            yield from (f"label {key} of node/{node}" for key in before)
        gone_with_namespace = {owned.name for owned in self.objects if owned.resource == NAMESPACES}
        while self.objects:
            owned = self.objects.pop()
            if owned.namespace in gone_with_namespace:
                continue
            if client.delete(owned.resource, owned.name, owned.namespace):
                yield str(owned)


def record_name(run: str) -> str:
    """The annotation in which a run records the labels of a node as they were before it."""
    return f"egresslab.dev/labels-before-{run}"


def recorded_labels(node: Object, run: str) -> dict[str, str | None]:
    """What a run recorded on a node; empty if nothing."""
    text = (node["metadata"].get("annotations") or {}).get(record_name(run), "{}")
    recorded: dict[str, str | None] = json.loads(text)
    return recorded


def restore_labels(client: Client, node: str, run: str, before: Mapping[str, str | None]) -> None:
    """Put a node's labels back, and remove the record."""
    client.merge(NODES, node, {"metadata": {"labels": dict(before), "annotations": {record_name(run): None}}})
