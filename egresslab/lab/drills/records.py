"""What traffic wrote down, as values: every question with its answer, for each flow.

Pure reading of `traffic`'s dump; what follows from it is for `gaps` to say.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from egresslab.errors import LabError
from egresslab.lab.drills import traffic
from egresslab.lab.entries import IPAddress


class Protocol(StrEnum):
    """Kinds of traffic: `TCP` are connections kept open, `NEW` those opened one after the other, `CONTROL` datagrams
    that take no gateway."""

    UDP = "udp"
    ICMP = "icmp"
    TCP = "tcp"
    NEW = "new"
    CONTROL = "control"


GATEWAY_TRAFFIC = (Protocol.UDP, Protocol.ICMP, Protocol.TCP, Protocol.NEW)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing sent; times in ns since the epoch. `source` is the address that the answer says it came from."""

    sent: int
    answered: int | None = None
    source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """Questions of one socket, or of all new connections, in the order they were sent."""

    protocol: Protocol
    questions: tuple[Question, ...]
    opened: int | None = None
    failed: tuple[int, int] | None = None
    """When it broke, and the errno."""


@dataclass(frozen=True, slots=True)
class Observation:
    """All that one traffic run saw; `interval_ms` by protocol is the time between two questions of any of its flows."""

    flows: tuple[Flow, ...]
    interval_ms: Mapping[Protocol, float]
    late: Sequence[tuple[int, float]] = field(default=())
    """When the traffic program itself woke too late, and by how many ms."""

    def of(self, protocol: Protocol) -> tuple[Flow, ...]:
        """Flows of one protocol."""
        return tuple(flow for flow in self.flows if flow.protocol is protocol)

    @property
    def end(self) -> int:
        """When the last question was sent."""
        return max((flow.questions[-1].sent for flow in self.flows if flow.questions), default=0)

    def moved(self, by_ns: int) -> Observation:
        """The same by a clock that is ahead by so much."""
        flows = tuple(
            Flow(
                flow.protocol,
                tuple(
                    Question(q.sent + by_ns, None if q.answered is None else q.answered + by_ns, q.source)
                    for q in flow.questions
                ),
                None if flow.opened is None else flow.opened + by_ns,
                None if flow.failed is None else (flow.failed[0] + by_ns, flow.failed[1]),
            )
            for flow in self.flows
        )
        return Observation(flows, self.interval_ms, [(at + by_ns, late) for at, late in self.late])


SHARED_FLOWS = {
    traffic.UDP: Protocol.UDP,
    traffic.ICMP: Protocol.ICMP,
    traffic.NEW: Protocol.NEW,
    traffic.CONTROL: Protocol.CONTROL,
}


class _Book:
    """One flow while it is being read."""

    def __init__(self) -> None:
        self.questions: dict[int, Question] = {}
        self.opened: int | None = None
        self.failed: tuple[int, int] | None = None


def read(dump: str) -> Observation:
    """What a traffic program printed; `LabError` if it is something else."""
    try:
        content: dict[str, Any] = json.loads(dump)
        data = zlib.decompress(base64.b64decode(content["records"]))
        sources = [ipaddress.ip_address(text) if text else None for text in content["sources"]]
        records = list(traffic.RECORD.iter_unpack(data))
        intervals = _intervals(content["config"])
    except (ValueError, KeyError, TypeError, zlib.error, struct.error) as error:
        raise LabError(f"not what a traffic program writes: {error!r}", value=dump[:120]) from error
    books: dict[int, _Book] = {}
    late: list[tuple[int, float]] = []
    for kind, source, number, sequence, at in records:
        if kind == traffic.LATE:
            late.append((at, sequence / 1000))
            continue
        book = books.setdefault(number, _Book())
        if kind == traffic.SENT:
            book.questions[sequence] = Question(at)
        elif kind == traffic.OPENED:
            book.opened = at
        elif kind == traffic.FAILED:
            book.failed = (at, sequence)
        elif (asked := book.questions.get(sequence)) is not None and asked.answered is None:
            book.questions[sequence] = Question(asked.sent, at, sources[source])
    flows = tuple(_flow(number, book) for number, book in sorted(books.items()))
    return Observation(flows, intervals, late)


def _flow(number: int, book: _Book) -> Flow:
    protocol = SHARED_FLOWS.get(number, Protocol.TCP)
    # Of a flow that stands for many connections, one that failed says nothing about the flow.
    failed = book.failed if protocol is Protocol.TCP else None
    return Flow(protocol, tuple(book.questions.values()), book.opened, failed)


def _intervals(config: Mapping[str, Any]) -> dict[Protocol, float]:
    interval = float(config["interval_ms"])
    found = {Protocol.UDP: interval, Protocol.ICMP: interval, Protocol.CONTROL: interval}
    if config["connections"]:
        found[Protocol.TCP] = float(config["connection_interval_ms"]) / int(config["connections"])
    if config["new_per_second"]:
        found[Protocol.NEW] = 1000 / float(config["new_per_second"])
    return found
