"""The sending side of session replication: one standby, connected, fed, and connected anew."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from egresslab.agent import sessionwire as wire
from egresslab.agent.flowstream import FlowStream, Subscription
from egresslab.agent.sessionwire import Frame, Kind
from egresslab.datapath.flowcopy import FlowCopier
from egresslab.datapath.values import Event
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

REFRESH_S = 10.0
"""How often ages are told; well below every flow's lifetime."""
PATIENCE_S = 3.0
"""A standby that has not answered for so long is gone, and is connected to anew."""
PING_S = 1.0
BACK_OFF_S = (0.1, 2.0)
BEHIND_S = 0.5
"""A standby that is further behind does not count as having the records."""
WINDOW = 16
"""Frames that may be under way: a slow standby is not given more than it can answer in time."""
EVENTS_WAITING = 32_768
AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class ReplicatedLease:
    """A lease whose flows are replicated, as this node sees it. `slots`: kernel slots that stand for it here."""

    lease: int
    epoch: int
    held: bool
    slots: frozenset[int]
    others: Mapping[str, IPv4Address]
    """The other candidates and their nodes' addresses."""


class Holder(Protocol):
    """Whose flows a link tells."""

    node: str
    stream: FlowStream
    copier: FlowCopier
    on_sync: Callable[[], None]

    def told_to(self, node: str) -> dict[int, ReplicatedLease]:
        """Leases that a standby is told of at present."""


class Link:
    """To one standby: connected, fed, and connected anew, until cancelled."""

    def __init__(self, owner: Holder, node: str, address: IPv4Address) -> None:
        self.node = node
        self.address = address
        self.wake = asyncio.Event()
        self._owner = owner
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of the other side."""
        self._begun: dict[int, int] = {}
        """Lease to the epoch in which everything about it was sent."""
        self._ends: dict[int, tuple[int, ...]] = {}
        """Numbers of END frames, and their leases."""
        self._confirmed: frozenset[int] = frozenset()
        self._unanswered: deque[tuple[int, float]] = deque()
        """Numbers of frames, and when they were sent."""
        self._answered = asyncio.Event()
        self._number = 0
        self._told_synced: frozenset[int] = frozenset()

    def synced(self, lease: int) -> bool:
        """Whether the standby has everything about a lease, but for the last moments."""
        return lease in self._told_synced

    async def run(self) -> None:
        """Connect and feed; a failure is a pause and another try."""
        pause = BACK_OFF_S[0]
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    reader, writer = await asyncio.open_connection(str(self.address), wire.PORT)
                pause = BACK_OFF_S[0]
                try:
                    await self._talk(reader, writer)
                finally:
                    writer.transport.abort()
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ClusterError) as error:
                logger.log(
                    logging.INFO if pause == BACK_OFF_S[0] else logging.DEBUG, "sessions to %s: %r", self.node, error
                )
            self._forget()
            self._owner.on_sync()
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACK_OFF_S[1])

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Feed while answers come; whichever ends first ends the other, and its error is raised."""
        with self._owner.stream.subscribe(EVENTS_WAITING, self.wake) as events:
            both = [asyncio.create_task(self._hear(reader)), asyncio.create_task(self._feed(writer, events))]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                ended = await asyncio.gather(*both, return_exceptions=True)
        failures = [error for error in ended if isinstance(error, Exception)]
        if failures:
            raise failures[0]

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        while True:
            number = (await wire.read(reader)).number
            while self._unanswered and self._unanswered[0][0] <= number:
                self._unanswered.popleft()
            for end in [end for end in self._ends if end <= number]:
                self._confirmed |= frozenset(self._ends.pop(end))
            self._answered.set()
            self._judge()

    def _judge(self) -> None:
        """Whether the standby is up to date, and a word to whoever wants to know when that changed."""
        late = time.monotonic() - self._unanswered[0][1] if self._unanswered else 0.0
        if late > PATIENCE_S:
            raise TimeoutError(f"no answer for {late:.1f} s")
        synced = self._confirmed if late < BEHIND_S else frozenset()
        if synced != self._told_synced:
            self._told_synced = synced
            self._owner.on_sync()

    async def _feed(self, writer: asyncio.StreamWriter, events: Subscription) -> None:
        await self._send(writer, Kind.HELLO, wire.VERSION + b"\0" + self._owner.node.encode())
        refresh = time.monotonic() + REFRESH_S
        since = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        while True:
            self.wake.clear()
            leases = self._owner.told_to(self.node)
            self._begun = {number: epoch for number, epoch in self._begun.items() if number in leases}
            self._confirmed &= leases.keys()
            await self._increments(writer, events, leases)
            fresh = {number: each.epoch for number, each in leases.items() if self._begun.get(number) != each.epoch}
            if fresh:
                await self._everything(writer, events, leases, fresh)
            elif time.monotonic() >= refresh:
                refresh, before = time.monotonic() + REFRESH_S, since
                since = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
                await self._records(writer, events, leases, leases.keys(), before)
            if not events.waiting:
                await self._pause(writer, min(refresh, time.monotonic() + PING_S))
            self._judge()

    async def _pause(self, writer: asyncio.StreamWriter, until: float) -> None:
        """Until there is something to tell; at the end of a long silence a question, whose answer is a sign of life."""
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self.wake.wait()
        except TimeoutError:
            await self._send(writer, Kind.PING)

    async def _everything(
        self,
        writer: asyncio.StreamWriter,
        events: Subscription,
        leases: Mapping[int, ReplicatedLease],
        fresh: Mapping[int, int],
    ) -> None:
        self._begun.update(fresh)
        self._confirmed -= fresh.keys()
        await self._send(writer, Kind.BEGIN, wire.pack_leases(fresh))
        await self._records(writer, events, leases, fresh.keys(), 0)
        self._ends[self._number + 1] = tuple(fresh)
        await self._send(writer, Kind.END, wire.pack_leases(fresh))

    async def _records(
        self,
        writer: asyncio.StreamWriter,
        events: Subscription,
        leases: Mapping[int, ReplicatedLease],
        which: Iterable[int],
        since_ns: int,
    ) -> None:
        """What the kernel holds of these leases and heard of since; openings and closings in between as they come."""
        slots = {slot: number for number in which for slot in leases[number].slots}
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for chunk in self._owner.copier.export(slots, now, since_ns):
            if chunk:
                await self._send(writer, Kind.RECORDS, chunk)
            await self._increments(writer, events, leases)
            await asyncio.sleep(0)

    async def _increments(
        self, writer: asyncio.StreamWriter, events: Subscription, leases: Mapping[int, ReplicatedLease]
    ) -> None:
        """What opened and closed, in order."""
        lease_of = {slot: number for number, each in leases.items() for slot in each.slots}
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        kind, records = Kind.RECORDS, list[bytes]()
        for seen in events.take(AT_ONCE):
            if seen.lost_flows:
                self._begun.clear()  # an opening or closing is missing: everything again
            lease = lease_of.get(seen.event.slot)
            if lease is None or seen.event.event is Event.DROPPED:
                continue
            record = self._owner.copier.record_of(seen.event, lease, now)
            if record is None:
                continue
            said = Kind.RECORDS if seen.event.event is Event.OPENED else Kind.REMOVE
            if said is not kind and records:
                await self._send(writer, kind, b"".join(records))
                records.clear()
            kind = said
            records.append(record)
        if records:
            await self._send(writer, kind, b"".join(records))

    async def _send(self, writer: asyncio.StreamWriter, kind: Kind, body: bytes = b"") -> None:
        while len(self._unanswered) >= WINDOW:
            self._answered.clear()
            async with asyncio.timeout(PATIENCE_S):
                await self._answered.wait()
        self._number += 1
        self._unanswered.append((self._number, time.monotonic()))
        writer.write(wire.pack(Frame(kind, self._number, body)))
        async with asyncio.timeout(PATIENCE_S):
            await writer.drain()
