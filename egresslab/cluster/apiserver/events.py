"""Events end: they are told for an hour, as with kube-apiserver's --event-ttl, so that a lab's state does not grow."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

from egresslab.cluster.apiserver.store import Store

LIFE = timedelta(hours=1)
_ROUND_S = 60.0


class Expiry:
    """Removes events that nobody has repeated for `LIFE`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; ended by `stop`."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_S)
            self.sweep(datetime.now(UTC))

    def sweep(self, moment: datetime) -> None:
        """Remove what is older than its life at `moment`."""
        bucket = self._store.bucket("events")
        for entry in list(bucket.entries.values()):
            event = entry.object()
            metadata = event["metadata"]
            last = event.get("lastTimestamp") or event.get("eventTime") or metadata.get("creationTimestamp")
            if last and datetime.fromisoformat(last) < moment - LIFE:
                self._store.remove(bucket, event)
