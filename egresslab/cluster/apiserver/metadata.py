"""The part that all objects share: names, identity, generation, and what clients may not change about them.

Names and labels are judged as apimachinery judges them. Nothing kind-specific.
"""

from __future__ import annotations

import re
import secrets
import uuid
from typing import Any

from egresslab.api.faults import FaultKind, FieldFault, forbidden, invalid, required
from egresslab.api.resources import Object
from egresslab.cluster.apiserver import status
from egresslab.cluster.apiserver.ages import now
from egresslab.cluster.apiserver.declarations import ResourceType

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_SUBDOMAIN_WORDS = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_WORDS = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_PART_WORDS = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_WORDS = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_LOOSE = "rbac.authorization.k8s.io"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_LONGEST_BASE = 58
_MOST_ANNOTATIONS = 256 * 1024
_SERVERS_OWN = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def begin(kind: ResourceType, obj: Object, namespace: str) -> None:
    """Identity of a new object: namespace, name from generateName, uid, creation time, first generation."""
    metadata = obj["metadata"]
    _place(kind, metadata, namespace)
    if not metadata.get("name") and metadata.get("generateName"):
        suffix = "".join(secrets.choice(_ALPHABET) for _ in range(5))
        metadata["name"] = metadata["generateName"][:_LONGEST_BASE] + suffix
    if not metadata.get("name"):
        faults = [required("metadata.name", "name or generateName is required")]
        raise status.invalid(kind.group, kind.kind, "", faults)
    for name in (*_SERVERS_OWN, "selfLink", "resourceVersion"):
        metadata.pop(name, None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = now()
    if kind.generation:
        metadata["generation"] = 1


def tidy(metadata: Object) -> None:
    """Leave out what is empty, as Go's `omitempty` does."""
    for name in ("labels", "annotations", "ownerReferences", "finalizers"):
        if name in metadata and not metadata[name]:
            del metadata[name]


def _place(kind: ResourceType, metadata: Object, namespace: str) -> None:
    if not kind.namespaced:
        metadata.pop("namespace", None)
        return
    if metadata.setdefault("namespace", namespace) != namespace:
        raise status.bad_request(
            f"the namespace of the provided object does not match the namespace sent on the request"
            f" ({metadata['namespace']} is not {namespace})"
        )


def carry(kind: ResourceType, new: Object, live: Object) -> None:
    """Put back what an update may not change; raises 400 for another name, 409 for another object's uid."""
    metadata, before = new["metadata"], live["metadata"]
    if metadata.setdefault("name", before["name"]) != before["name"]:
        raise status.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({before['name']})"
        )
    _place(kind, metadata, before.get("namespace", ""))
    if metadata.get("uid", before["uid"]) != before["uid"]:
        why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {before['uid']}"
        raise status.conflict(kind.group, kind.plural, before["name"], why)
    metadata.pop("selfLink", None)
    for name in _SERVERS_OWN:
        if name in before:
            metadata[name] = before[name]
        else:
            metadata.pop(name, None)
    for name in ("generateName",):
        if name in before:
            metadata.setdefault(name, before[name])


def judge(kind: ResourceType, obj: Object, old: Object | None) -> list[FieldFault]:
    """Faults of the metadata."""
    metadata = obj["metadata"]
    faults = [] if old is not None else list(_name(kind, metadata))
    faults += judge_labels(metadata.get("labels"), "metadata.labels")
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        faults += _qualified(key.lower(), "metadata.annotations", key)
    if sum(len(key) + len(value) for key, value in annotations.items()) > _MOST_ANNOTATIONS:
        words = f"may not be more than {_MOST_ANNOTATIONS} bytes"
        faults.append(FieldFault("metadata.annotations", FaultKind.TOO_LONG, detail=words))
    for index, owner in enumerate(metadata.get("ownerReferences") or ()):
        for part in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(part):
                faults.append(invalid(f"metadata.ownerReferences[{index}].{part}", "", f"{part} must not be empty"))
    added = set(metadata.get("finalizers") or ()) - set(((old or {}).get("metadata") or {}).get("finalizers") or ())
    if old is not None and metadata.get("deletionTimestamp") and added:
        words = f"no new finalizers can be added if the object is being deleted, found new finalizers {sorted(added)}"
        faults.append(forbidden("metadata.finalizers", words))
    return faults


def _name(kind: ResourceType, metadata: Object) -> list[FieldFault]:
    name = metadata["name"]
    if kind.group == _LOOSE:
        bad = name in (".", "..") or "/" in name or "%" in name
        return [invalid("metadata.name", name, "may not contain '/' or '%'")] if bad else []
    if (kind.plural == "services" and not kind.group) or kind.plural == "namespaces":
        pattern, words, most = _LABEL, _LABEL_WORDS, 63
    else:
        pattern, words, most = _SUBDOMAIN, _SUBDOMAIN_WORDS, 253
    faults = []
    if len(name) > most:
        faults.append(invalid("metadata.name", name, f"must be no more than {most} characters"))
    if not pattern.fullmatch(name):
        faults.append(invalid("metadata.name", name, words))
    return faults


def judge_labels(labels: Any, path: str) -> list[FieldFault]:
    """Faults of a map of labels."""
    faults = []
    for key, value in (labels or {}).items():
        faults += _qualified(key, path, key)
        if len(value) > 63:
            faults.append(invalid(path, value, "must be no more than 63 characters"))
        if not _VALUE.fullmatch(value):
            faults.append(invalid(path, value, _VALUE_WORDS))
    return faults


def _qualified(key: str, path: str, shown: str) -> list[FieldFault]:
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix)):
        return [invalid(path, shown, f"prefix part {_SUBDOMAIN_WORDS}")]
    if len(name) > 63:
        return [invalid(path, shown, "name part must be no more than 63 characters")]
    return [] if _PART.fullmatch(name) else [invalid(path, shown, _PART_WORDS)]
