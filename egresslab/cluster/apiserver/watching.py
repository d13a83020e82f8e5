"""Watches: a change in a bucket becomes an event for everyone who follows it, and a transition into or out of a
selection becomes ADDED or DELETED.

A watcher never delays a writer: events wait in its own queue, and one that does not read for too long is cut off; it
lists again, as clients do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from egresslab.cluster.apiserver import status
from egresslab.cluster.apiserver.store import Bucket, Change, ChangeType, Entry

LONGEST_QUEUE = 20_000
"""Events that may wait for a slow reader."""


class Watcher:
    """One follower of a bucket; use it as a context manager. `chosen` is None for everything."""

    def __init__(self, bucket: Bucket, chosen: Callable[[Entry], bool] | None) -> None:
        self._bucket = bucket
        self._chosen = chosen
        self._queue: deque[tuple[ChangeType, Entry, int]] = deque()
        self._wake = asyncio.Event()
        self.ended = False

    def __enter__(self) -> Watcher:
        self._bucket.listeners.append(self.offer)
        return self

    def __exit__(self, *_: object) -> None:
        self._bucket.listeners.remove(self.offer)

    def offer(self, change: Change) -> None:
        """Queue what the change is to this watcher, if anything."""
        seen = self._seen(change)
        if seen is None:
            return
        self._queue.append((seen, change.entry, change.version))
        if len(self._queue) > LONGEST_QUEUE:
            self.end()
        self._wake.set()

    def _seen(self, change: Change) -> ChangeType | None:
        if self._chosen is None:
            return change.type
        now = change.type is not ChangeType.DELETED and self._chosen(change.entry)
        before = change.previous is not None and self._chosen(change.previous)
        if now:
            return ChangeType.MODIFIED if before else ChangeType.ADDED
        return ChangeType.DELETED if before else None

    def replay(self, version: int) -> None:
        """Queue what happened after `version`; raises 410 when that is no longer known."""
        if version < self._bucket.compacted:
            raise status.gone(version, self._bucket.compacted)
        for change in self._bucket.since(version):
            self.offer(change)

    def end(self) -> None:
        """Stop: the reader is told with an empty answer."""
        self.ended = True
        self._wake.set()

    async def events(self, timeout_s: float) -> list[tuple[ChangeType, Entry, int]]:
        """The events that wait, or those that come within the time; an empty list when none did."""
        if not self._queue and not self.ended:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        waiting = list(self._queue)
        self._queue.clear()
        return waiting
