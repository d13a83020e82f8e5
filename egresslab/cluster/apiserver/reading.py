"""get, list and watch: from the index to the wire, without parsing what is sent as it is.

Lists join the stored bytes; watches wrap them. Only tables and metadata-only answers look inside objects. Resource
version semantics are those of "Kubernetes API concepts"; older versions are not kept, so Exact is answered for the
current one alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Mapping

import orjson

from egresslab.api.resources import Object
from egresslab.cluster.apiserver import selection, status, tables
from egresslab.cluster.apiserver.conversion import convert
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.documents import Shape, Wanted
from egresslab.cluster.apiserver.requests import flag, number
from egresslab.cluster.apiserver.selection import Selection
from egresslab.cluster.apiserver.store import Bucket, ChangeType, Entry, Key, Store
from egresslab.cluster.apiserver.watching import Watcher

BOOKMARK_S = 30.0
LONGEST_WATCH_S = 1800.0
_SYNTHETIC = ("", "0")
_INITIAL_END = "k8s.io/initial-events-end"


class Reader:
    """Serves reads from a store; `close` ends every watch."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watchers: set[Watcher] = set()
        self._closed = False

    def close(self) -> None:
        """End all watches, so that the server can stop."""
        self._closed = True
        for watcher in self._watchers:
            watcher.end()

    def bucket(self, kind: ResourceType) -> Bucket:
        """The bucket of a kind."""
        return self._store.bucket(kind.bucket, kind.fields)

    def entry(self, kind: ResourceType, namespace: str, name: str) -> Entry:
        """One entry; raises 404."""
        found = self.bucket(kind).entries.get((namespace, name))
        if found is None:
            raise status.not_found(kind.group, kind.plural, name)
        return found

    def get(self, kind: ResourceType, namespace: str, name: str, want: Wanted, query: Mapping[str, str]) -> bytes:
        """The body of a get."""
        entry = self.entry(kind, namespace, name)
        return present(kind, entry, want, query)

    def list_body(self, kind: ResourceType, namespace: str, want: Wanted, query: Mapping[str, str]) -> bytes:
        """The body of a list, or of one page of it."""
        chosen = selection.parse(kind, namespace, query)
        version = self._list_version(query)
        bucket = self.bucket(kind)
        keys = self._select(kind, chosen)
        metadata: Object = {"resourceVersion": str(version)}
        limit = number(query, "limit") or 0
        if query.get("continue"):
            version, start = _read_token(query["continue"])
            if version < bucket.compacted:
                raise status.gone(version, bucket.compacted)
            metadata["resourceVersion"] = str(version)
            keys = keys[bisect_right(keys, start) :]
        if 0 < limit < len(keys):
            metadata["continue"] = _token(version, keys[limit - 1])
            if chosen.whole:
                metadata["remainingItemCount"] = len(keys) - limit
            keys = keys[:limit]
        entries = [bucket.entries[key] for key in keys]
        if want.shape is Shape.TABLE:
            return orjson.dumps(tables.table(kind, entries, metadata, query.get("includeObject", "Metadata")))
        if want.shape in (Shape.METADATA, Shape.METADATA_LIST):
            head: Object = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
            items = [orjson.dumps(_metadata(entry.object())) for entry in entries]
        else:
            head = {"kind": kind.list_name, "apiVersion": kind.api_version}
            items = [convert(kind, entry) for entry in entries]
        opening = orjson.dumps({**head, "metadata": metadata})[:-1]
        return opening + b',"items":[' + b",".join(items) + b"]}"

    def _list_version(self, query: Mapping[str, str]) -> int:
        asked, current = number(query, "resourceVersion"), self._store.version
        if asked is not None and asked > current:
            raise status.too_large(asked, current)
        if query.get("resourceVersionMatch") == "Exact" and asked not in (None, current):
            raise status.gone(asked or 0, current)
        return current

    def _select(self, kind: ResourceType, chosen: Selection) -> list[Key]:
        """What is chosen, in order. Pages of a list ask again for each: nothing is sorted anew for that."""
        bucket = self.bucket(kind)
        entries, keys = bucket.entries, bucket.ordered()
        if chosen.name is not None and (chosen.namespace or not kind.namespaced):
            key = (chosen.namespace, chosen.name)
            return [key] if key in entries and chosen.matches(entries[key]) else []
        if chosen.namespace:
            # No name has this character or a greater one.
            bounds = (chosen.namespace, ""), (chosen.namespace, "\x7f")
            keys = keys[bisect_left(keys, bounds[0]) : bisect_right(keys, bounds[1])]
        return keys if chosen.whole else [key for key in keys if chosen.matches(entries[key])]

    async def watch(
        self, kind: ResourceType, namespace: str, want: Wanted, query: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        """Lines of a watch. The first item is empty: it comes when the watch stands, after any refusal."""
        chosen = selection.parse(kind, namespace, query)
        bucket = self.bucket(kind)
        asked = query.get("resourceVersion", "")
        version = number(query, "resourceVersion") or 0
        if version > self._store.version:
            raise status.too_large(version, self._store.version)
        seconds = min(number(query, "timeoutSeconds") or LONGEST_WATCH_S, LONGEST_WATCH_S)
        deadline = asyncio.get_running_loop().time() + seconds
        bookmarks, initial = flag(query, "allowWatchBookmarks"), query.get("sendInitialEvents", "")
        line = _Lines(kind, want, query)
        with Watcher(bucket, chosen.filter()) as watcher:
            watcher.ended = self._closed
            self._watchers.add(watcher)
            try:
                if initial == "true" or (not initial and asked in _SYNTHETIC):
                    entries = [bucket.entries[key] for key in self._select(kind, chosen)]
                    first = [line.event(ChangeType.ADDED, entry) for entry in entries]
                    if initial == "true" and bookmarks:
                        first.append(line.bookmark(self._store.version, {_INITIAL_END: "true"}))
                    version = self._store.version
                    yield b""
                    if first:
                        yield b"".join(first)
                else:
                    watcher.replay(version if asked not in _SYNTHETIC else self._store.version)
                    yield b""
                while not watcher.ended:
                    left = deadline - asyncio.get_running_loop().time()
                    if left <= 0:
                        return
                    events = await watcher.events(min(left, BOOKMARK_S))
                    if events:
                        yield b"".join([line.event(change, entry) for change, entry, _ in events])
                    elif bookmarks and not watcher.ended:
                        yield line.bookmark(self._store.version, None)
            finally:
                self._watchers.discard(watcher)


class _Lines:
    """Events as the client wants them."""

    def __init__(self, kind: ResourceType, want: Wanted, query: Mapping[str, str]) -> None:
        self._kind, self._want, self._query = kind, want, query
        self._plain = want.shape is Shape.OBJECT
        self._headed = False

    def event(self, change: ChangeType, entry: Entry) -> bytes:
        if self._plain:
            data = convert(self._kind, entry)
        else:
            data = present(self._kind, entry, self._want, self._query, headed=not self._headed)
            self._headed = True
        return b'{"type":"' + change.encode() + b'","object":' + data + b"}\n"

    def bookmark(self, version: int, annotations: dict[str, str] | None) -> bytes:
        metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        obj: Object = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": metadata}
        if self._want.shape is Shape.TABLE:
            obj = tables.empty({"resourceVersion": str(version)}, obj)
        elif not self._plain:
            obj |= {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        return orjson.dumps({"type": "BOOKMARK", "object": obj}, option=orjson.OPT_APPEND_NEWLINE)


def present(kind: ResourceType, entry: Entry, want: Wanted, query: Mapping[str, str], *, headed: bool = True) -> bytes:
    """One object as the client wants it."""
    if want.shape is Shape.TABLE:
        metadata = {"resourceVersion": str(entry.version)}
        rows = tables.table(kind, [entry], metadata, query.get("includeObject", "Metadata"))
        if not headed:
            rows["columnDefinitions"] = None
        return orjson.dumps(rows)
    if want.shape is Shape.METADATA:
        return orjson.dumps(_metadata(entry.object()))
    return convert(kind, entry)


def _metadata(obj: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _token(version: int, key: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([version, *key])).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, tuple[str, str]]:
    try:
        version, namespace, name = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(version), (str(namespace), str(name))
    except (binascii.Error, orjson.JSONDecodeError, TypeError, ValueError) as error:
        raise status.bad_request("continue key is not valid: it was not given by this server") from error
