"""What the programs tell: counters for every verdict, and the stream of flow events."""

from __future__ import annotations

import asyncio
import ctypes
import errno
from collections.abc import AsyncIterator, Callable, Iterator

from egresslab.datapath.addresses import from_narrow, from_wide, known, port_number
from egresslab.datapath.layout import COUNT, FLOW_RECORD, RECORD_BUDGET
from egresslab.datapath.libbpf import Libbpf
from egresslab.datapath.table import Table
from egresslab.datapath.values import REASONS, Count, Event, FlowEvent, Program, Reason

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Counters:
    """`counters`, summed over CPUs. They only grow, and survive a restart of the process."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, program: Program, reason: Reason) -> Count:
        raw = self._table.get((program * REASONS + reason).to_bytes(4, "little")) or b""
        parts = [COUNT.unpack(raw[start : start + COUNT.size]) for start in range(0, len(raw), COUNT.size)]
        return Count(sum(packets for packets, _ in parts), sum(size for _, size in parts))

    def read(self) -> dict[tuple[Program, Reason], Count]:
        """Only those that are not zero."""
        found = {(program, reason): self.get(program, reason) for program in Program for reason in Reason}
        return {key: count for key, count in found.items() if count.packets}


class FlowEvents:
    """The ring buffer. Exactly one process may read it; records wait there while nobody does.

    `fd` becomes readable when there are records: `loop.add_reader(events.fd, ...)`.
    """

    def __init__(self, libbpf: Libbpf, map_fd: int, budgets: Table) -> None:
        self._libbpf = libbpf
        self._budgets = budgets
        self._deliver: Callable[[FlowEvent], None] = _ignore
        self._callback = _CALLBACK(self._receive)
        self._failure: Exception | None = None
        self._taken = 0
        self._limit: int | None = None
        self._ring = libbpf.library.ring_buffer__new(map_fd, self._callback, None, None)
        if not self._ring:
            raise libbpf.failure("cannot read flow events", ctypes.get_errno() or errno.EINVAL)
        self.fd: int = libbpf.library.ring_buffer__epoll_fd(ctypes.c_void_p(self._ring))

    def read(self, callback: Callable[[FlowEvent], None], at_most: int | None = None) -> int:
        """Hand every waiting record, or `at_most` so many, to `callback` without blocking; how many. Raises what the
        callback raised."""
        self._deliver, self._failure, self._taken, self._limit = callback, None, 0, at_most
        count = int(self._libbpf.library.ring_buffer__consume(ctypes.c_void_p(self._ring)))
        if self._failure is not None:
            raise self._failure
        if count < 0 and self._taken != at_most:
            raise self._libbpf.failure("cannot read flow events", count)
        return self._taken

    async def __aiter__(self) -> AsyncIterator[FlowEvent]:
        """Every event as it comes, until cancelled."""
        loop, ready, waiting = asyncio.get_running_loop(), asyncio.Event(), list[FlowEvent]()
        loop.add_reader(self.fd, ready.set)
        try:
            while True:
                ready.clear()
                self.read(waiting.append)
                for event in waiting:
                    yield event
                waiting.clear()
                await ready.wait()
        finally:
            loop.remove_reader(self.fd)

    @property
    def lost(self) -> int:
        """Records that did not fit or exceeded the rate since the map was made."""
        return sum(drops + flows for _, drops, flows, *_ in self._budgets_of_cpus())

    @property
    def lost_flows(self) -> int:
        """Of these, the openings and closings: who keeps a copy of the flows has to read them all again."""
        return sum(flows for _, _, flows, *_ in self._budgets_of_cpus())

    def _budgets_of_cpus(self) -> Iterator[tuple[int, ...]]:
        raw = self._budgets.get(bytes(4)) or b""
        for start in range(0, len(raw), RECORD_BUDGET.size):
            yield RECORD_BUDGET.unpack(raw[start : start + RECORD_BUDGET.size])

    def close(self) -> None:
        if self._ring:
            self._libbpf.library.ring_buffer__free(ctypes.c_void_p(self._ring))
            self._ring = None

    def _receive(self, _: int | None, data: int, size: int) -> int:
        try:
            self._deliver(decode_record(ctypes.string_at(data, size)))
        except Exception as error:  # an exception cannot cross C: it is kept and raised by read()
            self._failure = error
            return -errno.EINTR
        self._taken += 1
        # A record counts as consumed also when the callback ends the reading.
        return -errno.EINTR if self._taken == self._limit else 0


def _ignore(_: FlowEvent) -> None:
    return None


def decode_record(raw: bytes) -> FlowEvent:
    """One `struct flow_record`."""
    (
        time,
        pod,
        remote,
        egress,
        pod_port,
        remote_port,
        egress_port,
        event,
        program,
        reason,
        protocol,
        _,
        slot,
        node,
        ifindex,
    ) = FLOW_RECORD.unpack(raw)
    return FlowEvent(
        event=Event(event),
        program=Program(program),
        reason=Reason(reason),
        time_ns=time,
        protocol=protocol,
        pod=known(pod),
        pod_port=port_number(pod_port),
        remote=known(remote),
        remote_port=port_number(remote_port),
        egress=from_wide(egress),
        egress_port=port_number(egress_port),
        slot=slot,
        node=from_narrow(node),
        ifindex=ifindex,
    )
