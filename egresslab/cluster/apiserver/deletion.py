"""delete and deletecollection: preconditions, grace, finalizers, and who is told to clean up behind.

A pod on a node stays until its kubelet confirms with a grace of zero; an object with finalizers stays until they
are gone; a namespace until it is empty. Dependents are the garbage collector's, told through finalizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from egresslab.api.resources import Object
from egresslab.cluster.apiserver import status
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.requests import flag, number
from egresslab.cluster.apiserver.store import Entry, Store

_DEFAULT_GRACE_S = 30
_FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}
_POLICIES = ("Background", *_FINALIZERS)
_WHOLE = frozenset(("pods", "services", "serviceaccounts", "namespaces"))
"""Kinds whose deleted object is the answer; for others it is a Status."""


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete; `grace_s` in seconds, None for the object's own."""

    grace_s: int | None = None
    propagation: str = ""
    uid: str = ""
    version: str = ""
    dry_run: bool = False


def read_options(body: Any, query: Mapping[str, str]) -> DeleteOptions:
    """From a DeleteOptions body and the query, the body first; raises 400 for nonsense."""
    given = body if isinstance(body, dict) else {}
    grace = given.get("gracePeriodSeconds")
    grace = number(query, "gracePeriodSeconds") if grace is None else grace
    if grace is not None and (not isinstance(grace, int) or grace < 0):
        raise status.bad_request(f"gracePeriodSeconds: Invalid value: {grace}: must be a whole number of seconds")
    orphan = given.get("orphanDependents")
    policy = given.get("propagationPolicy") or query.get("propagationPolicy", "")
    if not policy and (orphan is True or flag(query, "orphanDependents")):
        policy = "Orphan"
    if policy and policy not in _POLICIES:
        raise status.bad_request(f'propagationPolicy: Unsupported value: "{policy}"')
    conditions = given.get("preconditions") or {}
    dry = "All" in (given.get("dryRun") or []) or query.get("dryRun") == "All"
    return DeleteOptions(grace, policy, conditions.get("uid") or "", conditions.get("resourceVersion") or "", dry)


class Deleter:
    """Deletes from a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def delete(self, kind: ResourceType, entry: Entry, options: DeleteOptions) -> Object:
        """Delete or begin to; returns the answer's body. Raises 409 for a failed precondition."""
        obj = entry.object()
        metadata = obj["metadata"]
        self._precondition(kind, entry, options)
        grace = _grace(kind, obj, options)
        finalizers = list(metadata.get("finalizers") or ())
        wanted = _FINALIZERS.get(options.propagation)
        if wanted and wanted not in finalizers:
            finalizers = [name for name in finalizers if name not in _FINALIZERS.values()] + [wanted]
        elif options.propagation == "Background":
            finalizers = [name for name in finalizers if name not in _FINALIZERS.values()]
        held = bool(finalizers) or (bool((obj.get("spec") or {}).get("finalizers")) and kind.bucket == "namespaces")
        if not held and grace == 0:
            if not options.dry_run:
                if kind.bucket == "pods":
                    metadata["deletionGracePeriodSeconds"] = 0
                    metadata.setdefault("deletionTimestamp", _in(0))
                self._store.remove(self._store.bucket(kind.bucket), obj)
            return obj if kind.bucket in _WHOLE else _success(kind, entry)
        before = entry.object()
        if finalizers:
            metadata["finalizers"] = finalizers
        _mark(metadata, grace)
        if kind.bucket == "namespaces":
            obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        if kind.generation and "deletionTimestamp" not in before["metadata"]:
            metadata["generation"] = metadata.get("generation", 0) + 1
        if obj != before and not options.dry_run:
            self._store.put(self._store.bucket(kind.bucket), obj)
        return obj

    def _precondition(self, kind: ResourceType, entry: Entry, options: DeleteOptions) -> None:
        if options.uid and options.uid != entry.uid:
            found = f"UID in precondition: {options.uid}, UID in object meta: {entry.uid}"
        elif options.version and options.version != str(entry.version):
            found = (
                f"ResourceVersion in precondition: {options.version}, ResourceVersion in object meta: {entry.version}"
            )
        else:
            return
        raise status.conflict(kind.group, kind.plural, entry.key[1], f"Precondition failed: {found}")


def _grace(kind: ResourceType, obj: Object, options: DeleteOptions) -> int:
    """Seconds that the object may still live for; only pods are given any."""
    if kind.bucket != "pods":
        return 0
    spec, phase = obj.get("spec") or {}, (obj.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    if options.grace_s is not None:
        return options.grace_s
    own = spec.get("terminationGracePeriodSeconds")
    return _DEFAULT_GRACE_S if own is None else int(own)


def _mark(metadata: Object, grace: int) -> None:
    """Set or shorten the end of an object's life; it is never put off."""
    known = metadata.get("deletionGracePeriodSeconds")
    if metadata.get("deletionTimestamp") and known is not None and known <= grace:
        return
    metadata["deletionTimestamp"] = _in(grace)
    metadata["deletionGracePeriodSeconds"] = grace


def _in(seconds: int) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _success(kind: ResourceType, entry: Entry) -> Object:
    details = {"name": entry.key[1], "kind": kind.plural, "uid": entry.uid}
    if kind.group:
        details["group"] = kind.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
