"""metadata.managedFields: which manager last set which field (Kubernetes, "Server-Side Apply", "Field management").

Every write that is not an apply takes what it changed from everyone else. The record travels inside the object;
nothing is remembered here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from egresslab.api.resources import Object
from egresslab.cluster.apiserver.ages import now
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.fieldsets import Tree, compare, difference, union, well_formed
from egresslab.cluster.apiserver.types import schema_of

APPLY, UPDATE = "Apply", "Update"
_UNOWNED = frozenset(
    (
        *("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
        *("generation", "resourceVersion", "selfLink", "managedFields"),
    )
)


@dataclass(slots=True)
class Claim:
    """One entry of managedFields."""

    manager: str
    operation: str
    api_version: str
    subresource: str
    fields: Tree
    time: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it one entry: an applier keeps its entry across versions."""
        return self.manager, self.operation, self.subresource, "" if self.operation == APPLY else self.api_version

    def written(self) -> Object:
        """As it stands in metadata."""
        entry: Object = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields,
        }
        if self.subresource:
            entry["subresource"] = self.subresource
        return entry

    def __str__(self) -> str:
        text = f'"{self.manager}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.api_version}" if self.operation == UPDATE else text


def claims(obj: Object) -> list[Claim]:
    """The entries of an object's managedFields."""
    return [
        Claim(
            str(entry.get("manager") or ""),
            str(entry.get("operation") or UPDATE),
            str(entry.get("apiVersion") or ""),
            str(entry.get("subresource") or ""),
            entry["fieldsV1"] if well_formed(entry.get("fieldsV1")) else {},
            str(entry.get("time") or now()),
        )
        for entry in obj["metadata"].get("managedFields") or ()
        if isinstance(entry, dict)
    ]


def record(obj: Object, entries: list[Claim]) -> None:
    """Write entries into an object; those that own nothing are left out."""
    kept = [claim.written() for claim in entries if claim.fields]
    if kept:
        obj["metadata"]["managedFields"] = kept
    else:
        obj["metadata"].pop("managedFields", None)


def ownable(obj: Object) -> dict[str, Any]:
    """The object without what nobody owns."""
    rest = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _UNOWNED}
    return {"metadata": metadata, **rest} if metadata else rest


def track(kind: ResourceType, live: Object, new: Object, manager: str, subresource: str = "") -> None:
    """Record in `new` what a write other than an apply changed since `live` ({} on create)."""
    changed, removed = compare(ownable(live), ownable(new), schema_of(kind))
    if not changed and not removed:
        return
    mine = Claim(manager, UPDATE, new["apiVersion"], subresource, {}, now())
    touched = union(changed, removed)
    others = []
    for claim in claims(new):
        if claim.key == mine.key:
            mine.fields = difference(claim.fields, removed)
        else:
            claim.fields = difference(claim.fields, touched)
            others.append(claim)
    mine.fields = union(mine.fields, changed)
    record(new, [*others, mine])
