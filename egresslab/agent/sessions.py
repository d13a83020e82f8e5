"""Flow records from the holder of a lease to those who may hold it next, so that connections outlive their gateway.

Everything on connect, then what opens and closes as it happens, then ages now and then. A standby that is dead, slow or
restarting delays nobody: what does not reach it is sent anew when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

from egresslab.agent import sessionwire as wire
from egresslab.agent.flowstream import FlowStream
from egresslab.agent.sessionlink import PATIENCE_S, Link, ReplicatedLease
from egresslab.agent.sessionwire import Frame, Kind
from egresslab.datapath.flowcopy import RECORD, FlowCopier, names
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

LINGER_S = 3.0
"""So long a node that lost a lease still tells what it translates: packets on their way reach it for a moment."""
LOOK_S = 1.0
SILENCE_S = 3 * PATIENCE_S
"""A gateway that says nothing for so long, not even a ping, is gone."""


class Sessions:
    """Both directions: what this node holds goes out, what others hold comes in."""

    def __init__(
        self, node: str, address: IPv4Address, stream: FlowStream, copier: FlowCopier, on_sync: Callable[[], None]
    ) -> None:
        """`on_sync` is called when `synced` may have changed."""
        self.node = node
        self.stream = stream
        self.copier = copier
        self.on_sync = on_sync
        self.leases: dict[int, ReplicatedLease] = {}
        self._address = address
        self._links: dict[str, tuple[Link, asyncio.Task[None]]] = {}
        self._parting: dict[int, tuple[float, ReplicatedLease]] = {}
        """Leases that were lost, as they were, and until when they are still told of."""
        self._newest: dict[int, int] = {}
        """The greatest epoch of each lease that anybody spoke of."""
        self._wake = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    def update(self, leases: Iterable[ReplicatedLease]) -> None:
        """Which leases there are, who holds them, under which slots; compared with what was."""
        fresh = {each.lease: each for each in leases}
        if fresh == self.leases:
            return
        now = time.monotonic()
        for number, known in self.leases.items():
            if known.held and number in fresh and not fresh[number].held:
                self._parting[number] = now + LINGER_S, known
        self.leases = fresh
        self._newest = {number: max(each.epoch, self._newest.get(number, 0)) for number, each in fresh.items()}
        self._wake.set()
        for link, _ in self._links.values():
            link.wake.set()

    def synced(self, lease: int, node: str) -> bool:
        """Whether that standby has, but for the last moments, what this node knows of a lease's flows."""
        link, _ = self._links.get(node, (None, None))
        return link is not None and link.synced(lease)

    def told_to(self, node: str) -> dict[int, ReplicatedLease]:
        """Leases that a standby is told of: held here, or until a moment ago."""
        now = time.monotonic()
        told = {number: each for number, (until, each) in self._parting.items() if until > now}
        told |= {number: each for number, each in self.leases.items() if each.held}
        return {number: each for number, each in told.items() if node in each.others}

    async def run(self) -> None:
        """Listen, and keep a link to every standby, until cancelled."""
        async with _listening(str(self._address), self._connected):
            try:
                while True:
                    self._relink()
                    self._wake.clear()
                    try:
                        async with asyncio.timeout(LOOK_S if self._parting else None):
                            await self._wake.wait()
                    except TimeoutError:
                        pass  # time to look whether a lost lease has been told of for long enough
            finally:
                for node in list(self._links):
                    self._unlink(node)
                for task in self._serving:
                    task.cancel()

    def _relink(self) -> None:
        now = time.monotonic()
        self._parting = {number: parting for number, parting in self._parting.items() if parting[0] > now}
        wanted = {
            name: address
            for each in self.leases.values()
            for name, address in each.others.items()
            if name != self.node and self.told_to(name)
        }
        for node in self._links.keys() - wanted.keys():
            self._unlink(node)
        for node, address in wanted.items():
            known = self._links.get(node)
            if known is not None and known[0].address != address:
                self._unlink(node)
            if node not in self._links:
                link = Link(self, node, address)
                self._links[node] = link, asyncio.create_task(link.run(), name=f"sessions to {node}")

    def _unlink(self, node: str) -> None:
        _, task = self._links.pop(node)
        task.cancel()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="sessions from another node")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One gateway's records, until it ends or says nonsense."""
        sender = "?"
        try:
            hello = await wire.read(reader)
            version, _, name = hello.body.partition(b"\0")
            if hello.kind is not Kind.HELLO or version != wire.VERSION:
                raise ClusterError("another version of session replication", value=version)
            sender = name.decode()
            await self._receive(reader, writer)
        except (asyncio.IncompleteReadError, OSError, TimeoutError) as error:
            logger.info("sessions of %s end: %r", sender, error)
        except (ClusterError, UnicodeDecodeError) as error:
            logger.warning("sessions of %s refused: %s", sender, error)
        finally:
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        epochs: dict[int, int] = {}
        """What the sender holds or held, and in which epoch."""
        named: dict[int, set[bytes]] = {}
        """For each lease of which everything is being told: what was named."""
        while True:
            async with asyncio.timeout(SILENCE_S):
                frame = await wire.read(reader)
            match frame.kind:
                case Kind.BEGIN:
                    for lease, epoch in wire.unpack_leases(frame.body).items():
                        epochs[lease] = epoch
                        self._newest[lease] = max(epoch, self._newest.get(lease, 0))
                        named[lease] = set()
                case Kind.RECORDS | Kind.REMOVE:
                    if len(frame.body) % RECORD.size:
                        raise ClusterError("not flow records", value=f"{len(frame.body)} bytes")
                    self._apply(frame, epochs)
                    for lease, name in zip(_leases_of(frame.body), names(frame.body), strict=True) if named else ():
                        if lease in named:
                            named[lease].add(name)
                case Kind.END:
                    for lease in wire.unpack_leases(frame.body):
                        await self._sweep(lease, named.pop(lease, None), epochs)
            writer.write(wire.pack(Frame(Kind.ACK, frame.number)))
            async with asyncio.timeout(PATIENCE_S):
                await writer.drain()
            # What is in the buffer already would be read without giving others a turn.
            await asyncio.sleep(0)

    def _apply(self, frame: Frame, epochs: Mapping[int, int]) -> None:
        known = {lease: self.leases[lease] for lease in epochs if lease in self.leases and self.leases[lease].slots}
        slots = {lease: min(each.slots) for lease, each in known.items()}
        standby = {lease: slot for lease, slot in slots.items() if self._believes(lease, epochs[lease])}
        if frame.kind is Kind.REMOVE:
            self.copier.remove(frame.body, standby)
            return
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.copier.enter(frame.body, standby, now)
        # The last words of a holder that was: welcome where nothing else has been said since.
        late = {lease: slot for lease, slot in slots.items() if lease not in standby}
        if late:
            self.copier.enter(frame.body, late, now, only_new=True)

    def _believes(self, lease: int, epoch: int) -> bool:
        """Whether a sender is the holder as far as anybody here knows; its epoch may be ahead of our voter's news."""
        known = self.leases[lease]
        return epoch >= self._newest.get(lease, 0) and not (known.held and known.epoch >= epoch)

    async def _sweep(self, lease: int, kept: set[bytes] | None, epochs: Mapping[int, int]) -> None:
        known = self.leases.get(lease)
        if kept is None or known is None or not self._believes(lease, epochs[lease]):
            return
        gone = 0
        for count in self.copier.sweep(known.slots, kept, time.clock_gettime_ns(time.CLOCK_MONOTONIC)):
            gone += count
            await asyncio.sleep(0)
        logger.info("lease %d: has all %d flows of its holder, %d others taken out", lease, len(kept), gone)


def _leases_of(records: bytes) -> Iterable[int]:
    return (fields[12] for fields in RECORD.iter_unpack(records))


@asynccontextmanager
async def _listening(
    address: str, connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
) -> AsyncIterator[None]:
    server = await asyncio.start_server(connected, address, wire.PORT)
    try:
        yield
    finally:
        server.close()
