"""The probe that voters send to gateways, and its answer, as bytes (docs/failover.md, "Probes").

Only the format: who is probed when, and what an answer means, is the voter's business; what a grant does is the
programs' (`bpf/probe.h`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PORT = 9878
SIZE = 168
GRANTS = 8
"""How many grants one probe carries."""
VERSION = 1
REQUEST, ANSWER = 1, 2
VOTER_ALIVE = 1
_HEADER = struct.Struct("!4sBBBBIIQQQ")
_GRANT = struct.Struct("!IIQ")
MAGIC = b"EGLB"


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """A grant of `lease` to the gateway, for `duration_ms` from the gateway's clock that the probe echoes."""

    lease: int
    duration_ms: int
    epoch: int


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What the gateway says of a lease: held for `held_ms` more (0: not held), by grants of `epoch` (0: no such lease
    there)."""

    lease: int
    held_ms: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Request:
    """`clock_ns` is the sender's own and comes back untouched; `echo_ns` is the gateway's as last heard, 0 for never.
    Without an echo the grants are not taken."""

    sequence: int
    clock_ns: int
    echo_ns: int = 0
    grants: tuple[GrantRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """`gateway_ns`: the gateway's clock when it answered, to be echoed by the next probe. `leases`: one for each grant
    of the request, in its order."""

    sequence: int
    voter_alive: bool
    clock_ns: int
    echo_ns: int
    gateway_ns: int
    leases: tuple[LeaseState, ...]


def pack_request(request: Request) -> bytes:
    """The payload of a probe. Raises ValueError for more grants than it has room for."""
    if len(request.grants) > GRANTS:
        raise ValueError(f"a probe carries at most {GRANTS} grants, not {len(request.grants)}")
    head = _HEADER.pack(
        MAGIC, VERSION, REQUEST, len(request.grants), 0, request.sequence, 0, request.clock_ns, request.echo_ns, 0
    )
    rows = b"".join(_GRANT.pack(grant.lease, grant.duration_ms, grant.epoch) for grant in request.grants)
    return (head + rows).ljust(SIZE, b"\0")


def unpack_request(raw: bytes) -> Request | None:
    """None for what is no probe."""
    found = _unpack(raw, REQUEST)
    if found is None:
        return None
    sequence, _, clock, echo, _, rows = found
    return Request(sequence, clock, echo, tuple(GrantRequest(*row) for row in rows))


def pack_answer(answer: Answer) -> bytes:
    """The payload of an answer, as a gateway's kernel gives it. Raises ValueError as `pack_request`."""
    if len(answer.leases) > GRANTS:
        raise ValueError(f"an answer carries at most {GRANTS} leases, not {len(answer.leases)}")
    head = _HEADER.pack(
        MAGIC,
        VERSION,
        ANSWER,
        len(answer.leases),
        0,
        answer.sequence,
        VOTER_ALIVE if answer.voter_alive else 0,
        answer.clock_ns,
        answer.echo_ns,
        answer.gateway_ns,
    )
    rows = b"".join(_GRANT.pack(state.lease, state.held_ms, state.epoch) for state in answer.leases)
    return (head + rows).ljust(SIZE, b"\0")


def unpack_answer(raw: bytes) -> Answer | None:
    """None for what is no answer."""
    found = _unpack(raw, ANSWER)
    if found is None:
        return None
    sequence, flags, clock, echo, gateway, rows = found
    alive = bool(flags & VOTER_ALIVE)
    return Answer(sequence, alive, clock, echo, gateway, tuple(LeaseState(*row) for row in rows))


def _unpack(raw: bytes, kind: int) -> tuple[int, int, int, int, int, list[tuple[int, int, int]]] | None:
    """Sequence, flags, the three clocks, and the rows; None for anything else."""
    if len(raw) != SIZE:
        return None
    magic, version, found, count, zero, sequence, flags, sender, echo, gateway = _HEADER.unpack_from(raw)
    if (magic, version, found, zero) != (MAGIC, VERSION, kind, 0) or count > GRANTS:
        return None
    rows = [_GRANT.unpack_from(raw, _HEADER.size + _GRANT.size * number) for number in range(count)]
    return sequence, flags, sender, echo, gateway, rows
