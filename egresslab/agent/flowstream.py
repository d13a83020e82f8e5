"""The one reader of the datapath's ring buffer, and those who listen: observers, and the replication of sessions.

A ring buffer has one consumer, so everybody else subscribes here. A slow subscriber loses its own oldest events, which
are counted, and never delays the kernel, the agent or another subscriber.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from egresslab.datapath.values import Event, FlowEvent, IPAddress

logger = logging.getLogger(__name__)

KEPT = 4_096
"""How many of the last events are remembered."""
AT_ONCE = 256
"""Events read in one turn of the loop: some milliseconds of work, so that nothing else waits for long."""


class PodName(NamedTuple):
    """Who a pod address belongs to."""

    namespace: str
    name: str


class SeenFlow(NamedTuple):
    """An event with what was known when it arrived; `lost` events are missing between it and the one before, of which
    `lost_flows` were openings and closings."""

    event: FlowEvent
    pod: PodName | None
    gateway: str | None
    lost: int = 0
    lost_flows: int = 0


class EventSource(Protocol):
    """The kernel's ring buffer, as `Datapath.flows` offers it."""

    fd: int

    def read(self, callback: Callable[[FlowEvent], None], at_most: int | None = None) -> int:
        """Hand over what waits, `at_most` so many."""

    @property
    def lost(self) -> int:
        """Records that did not fit, since the map was made."""

    @property
    def lost_flows(self) -> int:
        """Openings and closings among them."""


class Subscription:
    """Events for one listener, at most `capacity` waiting; `wake` is set when one arrives."""

    def __init__(self, capacity: int, wake: asyncio.Event | None = None) -> None:
        self._waiting: deque[SeenFlow] = deque()
        self._capacity = capacity
        self._lost = self._lost_flows = 0
        self._arrived = wake or asyncio.Event()

    def put(self, seen: SeenFlow) -> None:
        """Add one; the oldest makes room."""
        if len(self._waiting) >= self._capacity:
            oldest = self._waiting.popleft()
            self._lost += 1 + oldest.lost
            self._lost_flows += (oldest.event.event is not Event.DROPPED) + oldest.lost_flows
        self._waiting.append(seen)
        self._arrived.set()

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return len(self._waiting)

    async def next(self) -> list[SeenFlow]:
        """All that wait, at least one; the first carries what this listener lost."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self.take()

    def take(self, at_most: int = KEPT) -> list[SeenFlow]:
        """What waits now, perhaps nothing."""
        taken = [self._waiting.popleft() for _ in range(min(at_most, len(self._waiting)))]
        if taken and self._lost:
            first = taken[0]
            taken[0] = first._replace(lost=first.lost + self._lost, lost_flows=first.lost_flows + self._lost_flows)
            self._lost = self._lost_flows = 0
        return taken


class FlowStream:
    """Reads flow events and gives them to subscribers. `pod_of` and `gateway_of` name what an event has as numbers."""

    def __init__(
        self,
        source: EventSource,
        pod_of: Callable[[IPAddress], PodName | None],
        gateway_of: Callable[[int], str | None],
        kept: int = KEPT,
    ) -> None:
        self._source = source
        self._pod_of = pod_of
        self._gateway_of = gateway_of
        self._kept: deque[SeenFlow] = deque(maxlen=kept)
        self._subscriptions: dict[Subscription, None] = {}
        self._lost, self._lost_flows = source.lost, source.lost_flows
        self.told: Counter[Event] = Counter()
        """How many events were read."""

    @property
    def lost(self) -> int:
        """Events that the kernel could not keep for its reader, since its map was made."""
        return self._source.lost

    def last(self, count: int) -> list[SeenFlow]:
        """The last `count` events, oldest first."""
        return list(self._kept)[-count:] if count > 0 else []

    @contextmanager
    def subscribe(self, capacity: int = KEPT, wake: asyncio.Event | None = None) -> Iterator[Subscription]:
        """Events from now on, while the context is open; `wake` is set with each, for one who waits for other things
        too."""
        subscription = Subscription(capacity, wake)
        self._subscriptions[subscription] = None
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]

    async def run(self) -> None:
        """Read until cancelled; raises what reading raised."""
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            try:
                self.read()
            except Exception as error:  # in a callback of the loop nobody would hear of it
                loop.remove_reader(self._source.fd)
                failed.set_exception(error)

        loop.add_reader(self._source.fd, read)
        try:
            await failed
        finally:
            loop.remove_reader(self._source.fd)

    def read(self) -> int:
        """One turn: some of what waits in the kernel; how many."""
        lost = self._source.lost
        missing, self._lost = lost - self._lost, lost
        lost_flows = self._source.lost_flows
        missing_flows, self._lost_flows = lost_flows - self._lost_flows, lost_flows

        def take(event: FlowEvent) -> None:
            nonlocal missing, missing_flows
            pod, gateway = self._pod_of(event.pod), self._gateway_of(event.slot)
            seen = SeenFlow(event, pod, gateway, missing, missing_flows)
            missing = missing_flows = 0
            self.told[event.event] += 1
            self._kept.append(seen)
            for subscription in self._subscriptions:
                subscription.put(seen)

        count = self._source.read(take, AT_ONCE)
        # Without an event to carry it, the loss is told with the next one.
        self._lost -= missing
        self._lost_flows -= missing_flows
        return count
