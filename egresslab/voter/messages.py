"""What voters tell each other: one JSON object in a datagram, on UDP port 9877.

Any of them may be lost, doubled, late or out of order. Nothing here makes two holders possible: only grants in probes
make a holder, and the one message that frees a voter early, `Release`, stays true for ever once it was sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from egresslab.voter.files import Cause, Pace

PORT = 9877


class Seen(IntEnum):
    """What a voter says of a node that it probes."""

    LOST = 0
    VOICELESS = 1
    """Its kernel answers, its voter process does not run: it may go on as a holder, but not become one."""
    ALIVE = 2


class Target(NamedTuple):
    """A node as probed at one pace: groups may differ in what they call lost."""

    node: str
    pace: Pace


class Choice(NamedTuple):
    """A node, and the epoch in which it was voted for or holds."""

    node: str
    epoch: int


class Holding(NamedTuple):
    """A holder that answered a probe as such, `age_ms` before the message was sent."""

    node: str
    epoch: int
    age_ms: int


@dataclass(frozen=True, slots=True)
class View:
    """What a node sees. `clock`: its CLOCK_MONOTONIC, which orders its views. `unfit`: leases that this node itself
    cannot serve at present. `known`: epochs that this node has met and that exceed what somebody told it."""

    node: str
    clock: int
    seen: Mapping[Target, Seen] = field(default_factory=dict)
    votes: Mapping[int, Choice] = field(default_factory=dict)
    holding: Mapping[int, Holding] = field(default_factory=dict)
    known: Mapping[int, int] = field(default_factory=dict)
    unfit: frozenset[int] = frozenset()
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Active:
    """`node` holds the lease. The rest tells how it came: from whom, why, how long nobody held it, when (Unix time);
    and the MACs with which it announces, so that nobody takes its claim to an address for a stranger's."""

    node: str
    lease: int
    epoch: int
    origin: str | None = None
    cause: Cause = Cause.FIRST
    outage_ms: float | None = None
    time: float = 0.0
    macs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """`node` has stopped answering for the lease in this and every earlier epoch, and wishes `target` to follow."""

    node: str
    lease: int
    epoch: int
    target: str
    cause: Cause


Message = View | Active | Release


def pack(message: Message) -> bytes:
    """The datagram."""
    raw: dict[str, Any]
    match message:
        case View():
            raw = {
                "type": "view",
                "node": message.node,
                "clock": message.clock,
                "seen": [[target.node, *_pace(target.pace), int(seen)] for target, seen in message.seen.items()],
                "votes": [[lease, *vote] for lease, vote in message.votes.items()],
                "holding": [[lease, *holding] for lease, holding in message.holding.items()],
                "known": list(message.known.items()),
                "unfit": sorted(message.unfit),
                "generation": message.generation,
            }
        case Active():
            raw = {
                "type": "active",
                "node": message.node,
                "lease": message.lease,
                "epoch": message.epoch,
                "origin": message.origin,
                "cause": message.cause.value,
                "outage_ms": message.outage_ms,
                "time": message.time,
                "macs": message.macs,
            }
        case Release():
            raw = {
                "type": "release",
                "node": message.node,
                "lease": message.lease,
                "epoch": message.epoch,
                "target": message.target,
                "cause": message.cause.value,
            }
    return json.dumps(raw, separators=(",", ":")).encode()


def unpack(raw: bytes) -> Message:
    """Raises ValueError for what is none of these."""
    try:
        value = json.loads(raw)
        kind = value.pop("type")
        match kind:
            case "view":
                return View(
                    str(value["node"]),
                    int(value["clock"]),
                    {Target(node, Pace(*pace)): Seen(seen) for node, *pace, seen in value["seen"]},
                    {int(lease): Choice(str(node), int(epoch)) for lease, node, epoch in value["votes"]},
                    {int(i): Holding(str(node), int(epoch), int(age)) for i, node, epoch, age in value["holding"]},
                    {int(lease): int(epoch) for lease, epoch in value["known"]},
                    frozenset(int(lease) for lease in value["unfit"]),
                    int(value["generation"]),
                )
            case "active":
                return Active(**{**value, "cause": Cause(value["cause"]), "macs": tuple(value["macs"])})
            case "release":
                return Release(**{**value, "cause": Cause(value["cause"])})
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a message: {error!r}") from error
    raise ValueError(f"a message of an unknown type: {kind!r}")


def _pace(pace: Pace) -> tuple[int, int, int]:
    return pace.interval_ms, pace.failures, pace.recoveries
