"""Objects, kept: one SQLite file for what must survive, an index in memory for what must be fast, and the history of
changes that watches are served from.

A write is in the file before it is answered, as far as the death of this process goes; the file is not synced to disk,
since a lab's state lives and dies with its machine. Objects are held as the bytes that are sent: serialised once for
each version, parsed by whoever wants to change one. Nothing here knows kinds or validates anything.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from egresslab.api.resources import Object

HISTORY = 4096
"""Changes kept for each bucket; a watch from before them is answered with 410 Gone."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  bucket TEXT, namespace TEXT, name TEXT, version INTEGER, data BLOB,
  PRIMARY KEY (bucket, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
INSERT OR IGNORE INTO facts VALUES ('version', 1);
"""

Key = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped objects."""


class ChangeType(StrEnum):
    """Types of watch events."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one object. `data` is its JSON; `labels` and `fields` are what selectors look at."""

    key: Key
    version: int
    uid: str
    data: bytes
    labels: dict[str, str]
    fields: dict[str, str]

    def object(self) -> Object:
        """A fresh copy, free to change."""
        decoded: Object = orjson.loads(self.data)
        return decoded


@dataclass(frozen=True, slots=True)
class Change:
    """What happened: the entry as it is now (as it last was, when deleted) and as it was before."""

    type: ChangeType
    version: int
    entry: Entry
    previous: Entry | None


class Bucket:
    """All objects of one resource. `fields` names the paths that field selectors may use."""

    def __init__(self, name: str, fields: tuple[str, ...], version: int, history: int = HISTORY) -> None:
        self.name = name
        self.entries: dict[Key, Entry] = {}
        self.history: deque[Change] = deque(maxlen=history)
        self.compacted = version
        self.listeners: list[Callable[[Change], None]] = []
        self._ordered: list[Key] | None = None
        self._paths = tuple((path, tuple(path.split("."))) for path in fields)

    def entry(self, obj: Object, version: int) -> Entry:
        """The entry for an object, whose resourceVersion is set."""
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(version)
        labels = metadata.get("labels") or {}
        fields = {path: _text(obj, parts) for path, parts in self._paths}
        key = (metadata.get("namespace", ""), metadata["name"])
        return Entry(key, version, metadata.get("uid", ""), orjson.dumps(obj), labels, fields)

    def ordered(self) -> list[Key]:
        """The keys of all entries, sorted; not to be changed."""
        if self._ordered is None:
            self._ordered = sorted(self.entries)
        return self._ordered

    def since(self, version: int) -> Iterator[Change]:
        """Changes after `version`, which must not be before `compacted`."""
        return (change for change in list(self.history) if change.version > version)

    def publish(self, change: Change) -> None:
        """Remember a change and tell everyone."""
        if len(self.history) == self.history.maxlen:
            self.compacted = self.history[0].version
        self.history.append(change)
        if change.type is not ChangeType.MODIFIED:
            self._ordered = None
        for listener in tuple(self.listeners):
            listener(change)


def _text(obj: Any, parts: tuple[str, ...]) -> str:
    for part in parts:
        obj = obj.get(part) if isinstance(obj, dict) else None
    if isinstance(obj, bool):
        return str(obj).lower()
    if isinstance(obj, dict):
        return str(obj.get("component", ""))  # an event's source
    return "" if obj is None else str(obj)


class Store:
    """Buckets over one file; `version` is the resourceVersion of the last write."""

    def __init__(self, path: Path | None, history: int = HISTORY) -> None:
        self._history = history
        self._database = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _SCHEMA)
        self.version: int = self._database.execute("SELECT value FROM facts WHERE name = 'version'").fetchone()[0]
        self._buckets: dict[str, Bucket] = {}

    def close(self) -> None:
        """Give the file up."""
        self._database.close()

    def bucket(self, name: str, fields: tuple[str, ...] = ()) -> Bucket:
        """The bucket of that name, read from the file the first time."""
        if (known := self._buckets.get(name)) is not None:
            return known
        bucket = self._buckets[name] = Bucket(name, fields, self.version, self._history)
        rows = self._database.execute("SELECT version, data FROM objects WHERE bucket = ?", (name,))
        for version, data in rows:
            entry = bucket.entry(orjson.loads(data), version)
            bucket.entries[entry.key] = entry
        return bucket

    def put(self, bucket: Bucket, obj: Object) -> Entry:
        """Write a new or changed object; its resourceVersion becomes the write's."""
        version = self.version + 1
        entry = bucket.entry(obj, version)
        row = (bucket.name, *entry.key, version, entry.data)
        self._write("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", row, version)
        previous = bucket.entries.get(entry.key)
        bucket.entries[entry.key] = entry
        kind = ChangeType.ADDED if previous is None else ChangeType.MODIFIED
        bucket.publish(Change(kind, version, entry, previous))
        return entry

    def remove(self, bucket: Bucket, obj: Object) -> Entry:
        """Delete an object; the last state that watchers see is `obj` with the resourceVersion of the deletion."""
        version = self.version + 1
        entry = bucket.entry(obj, version)
        self._write(
            "DELETE FROM objects WHERE bucket = ? AND namespace = ? AND name = ?", (bucket.name, *entry.key), version
        )
        previous = bucket.entries.pop(entry.key)
        bucket.publish(Change(ChangeType.DELETED, version, entry, previous))
        return entry

    def _write(self, statement: str, values: tuple[Any, ...], version: int) -> None:
        run = self._database.execute
        run("BEGIN")
        try:
            run(statement, values)
            run("UPDATE facts SET value = ? WHERE name = 'version'", (version,))
        except sqlite3.Error:
            run("ROLLBACK")
            raise
        run("COMMIT")
        self.version = version

    def fact(self, name: str, make: Callable[[], bytes]) -> bytes:
        """A value that is made once and kept with the state, such as a signing key."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        if row is not None:
            return bytes(row[0])
        value = make()
        self._database.execute("INSERT INTO facts VALUES (?, ?)", (name, value))
        return value
