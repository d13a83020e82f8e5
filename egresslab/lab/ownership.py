"""What a chapter made, written down as it is made, so that it can be taken away again.

Cleaning up goes by this record, never by a name pattern. Namespaces and cluster-wide objects also carry the run's
label, so that a runner can find them after the kernel that made them is dead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from egresslab.api.resources import NAMESPACES, NODES, Object, Resource
from egresslab.lab.client import Client

RUN_LABEL = "egresslab.dev/run"
MADE_BY_LABEL = "egresslab.dev/made-by"


@dataclass(frozen=True, slots=True)
class Owned:
    """An object that a chapter made."""

    resource: Resource
    name: str
    namespace: str | None = None

    def __str__(self) -> str:
        return f"{self.resource.kind.lower()}/{self.name}" + (f" in {self.namespace}" if self.namespace else "")


@dataclass(frozen=True, slots=True)
class NodeLabel:
    """A node's label as it was before a chapter set it; None if it was not there."""

    node: str
    key: str
    before: str | None

    def __str__(self) -> str:
        return f"label {self.key} of node/{self.node}"


@dataclass(slots=True)
class Ledger:
    """The record of one chapter's run."""

    run: str
    objects: list[Owned] = field(default_factory=list)
    labels: list[NodeLabel] = field(default_factory=list)

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

    def note_label(self, label: NodeLabel) -> None:
        """Remember what a label was before the chapter's first change."""
        if not any((known.node, known.key) == (label.node, label.key) for known in self.labels):
            self.labels.append(label)

    def clear(self, client: Client) -> Iterator[str]:
        """Undo everything, last made first; yields what was undone. What is already gone is no error."""
        while self.labels:
            label = self.labels.pop()
            client.merge(NODES, label.node, {"metadata": {"labels": {label.key: label.before}}})
            yield str(label)
        gone_with_namespace = {owned.name for owned in self.objects if owned.resource == NAMESPACES}
        while self.objects:
            owned = self.objects.pop()
            if owned.namespace in gone_with_namespace:
                continue
            if client.delete(owned.resource, owned.name, owned.namespace):
                yield str(owned)
