"""Keys waiting to be reconciled, each at most once in the queue and never in two hands at a time.

A controller says *which* object may need work, never *what* happened to it; many changes of one object cost one
reconciliation. Nothing here polls: an idle queue costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from egresslab.api.connection import ApiError, Unreachable

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 15.0


class WorkQueue(Generic[Key]):
    """Runs `reconcile(key)` for each key added, `parallel` keys at a time, with back-off after errors.

    A key that is added while it is being reconciled is reconciled once more afterwards, so no change is missed.
    """

    def __init__(self, name: str, reconcile: Callable[[Key], Awaitable[None]], *, parallel: int = 4) -> None:
        self.name = name
        self._reconcile = reconcile
        self._parallel = parallel
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._wake = asyncio.Semaphore(0)

    def add(self, key: Key) -> None:
        """Reconcile `key` as soon as a worker is free."""
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._busy:
            self._ready.append(key)
            self._wake.release()

    def add_after(self, key: Key, delay_s: float) -> None:
        """Reconcile `key` in `delay_s` seconds; of several delays the earliest counts."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(delay_s, 0.0)
        known = self._timers.get(key)
        if known is not None:
            if known.when() <= due:
                return
            known.cancel()
        self._timers[key] = loop.call_at(due, self._expire, key)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._parallel):
                    group.create_task(self._work(), name=f"{self.name}-{number}")
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    def _expire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def _work(self) -> None:
        while True:
            await self._wake.acquire()
            key = self._ready.popleft()
            self._waiting.discard(key)
            self._busy.add(key)
            try:
                await self._attempt(key)
            finally:
                self._busy.discard(key)
                if key in self._waiting:
                    self._ready.append(key)
                    self._wake.release()

    async def _attempt(self, key: Key) -> None:
        try:
            await self._reconcile(key)
        except Unreachable as error:
            logger.info("%s: %s: %s", self.name, key, error)
        except ApiError as error:
            # A conflict means that the cache lags behind; the change that brings it up to date is on its way.
            level = logging.DEBUG if error.status == 409 else logging.WARNING
            logger.log(level, "%s: %s: %s", self.name, key, error)
        except Exception:
            # One malformed object must not stop the others; the traceback is the report of our defect.
            logger.exception("%s: %s", self.name, key)
        else:
            self._failures.pop(key, None)
            return
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.add_after(key, min(FIRST_PAUSE_S * 2 ** min(failures, 16), LONGEST_PAUSE_S))
