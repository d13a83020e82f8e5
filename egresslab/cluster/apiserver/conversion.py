"""One object in two versions: Events are served by two groups with different field names, custom resources under every
served version.

Objects are stored in one form, so almost every answer is the stored bytes and costs nothing here.
"""

from __future__ import annotations

import orjson

from egresslab.api.resources import Object
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.store import Entry

EVENTS_GROUP = "events.k8s.io"
_EVENT_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
_CORE_NAMES = {new: old for old, new in _EVENT_NAMES.items()}


def convert(kind: ResourceType, entry: Entry) -> bytes:
    """The entry's bytes as `kind` shows them."""
    if kind.group == EVENTS_GROUP:
        return orjson.dumps(shown(kind, entry.object()))
    if kind.custom and not entry.data.startswith(b'{"apiVersion":"' + kind.api_version.encode() + b'"'):
        return orjson.dumps(shown(kind, entry.object()))
    return entry.data


def shown(kind: ResourceType, obj: Object) -> Object:
    """A stored object as `kind` shows it."""
    if kind.group == EVENTS_GROUP:
        obj = {_EVENT_NAMES.get(key, key): value for key, value in obj.items()}
    return {**obj, "apiVersion": kind.api_version}


def stored(kind: ResourceType, obj: Object) -> Object:
    """An object that a client sent to `kind`, in the form it is stored in."""
    if kind.group == EVENTS_GROUP:
        return {_CORE_NAMES.get(key, key): value for key, value in obj.items()} | {"apiVersion": "v1"}
    return obj
