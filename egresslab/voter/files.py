"""The two files between agent and voter: `voting.json`, what to vote about, and `voter.json`, what came of it.

Each is written whole and put in place by a rename, so a reader sees the old or the new one. Both processes import this
module, and it imports next to nothing, because the voter's memory and start are paid on every node.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum, StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, TypeVar

IPAddress = IPv4Address | IPv6Address
T = TypeVar("T")

RUN_DIR = Path("/run/egresslab-agent")
VOTING = RUN_DIR / "voting.json"
VOTER = RUN_DIR / "voter.json"
MILLISECOND = 1_000_000
"""In nanoseconds, which is what all clocks here count."""


class Failback(StrEnum):
    """When a repaired, preferred candidate takes over again; values as in the API."""

    NEVER = "Never"
    DELAYED = "Delayed"
    IMMEDIATE = "Immediate"


@dataclass(frozen=True, slots=True)
class Pace:
    """How a candidate is probed: every `interval_ms`, lost after `failures` losses in a row, back after `recoveries`
    answers in a row."""

    interval_ms: int = 50
    failures: int = 3
    recoveries: int = 3

    @property
    def interval_ns(self) -> int:
        return self.interval_ms * MILLISECOND

    @property
    def duration_ms(self) -> int:
        """T: how long a grant lasts from the moment that the holder's clock showed what it echoes."""
        return (self.failures + 1) * self.interval_ms

    @property
    def duration_ns(self) -> int:
        return self.duration_ms * MILLISECOND


@dataclass(frozen=True, slots=True)
class Peer:
    """A node of the cluster. `address`, `address_v6`: its InternalIPs."""

    name: str
    address: IPv4Address
    address_v6: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may hold a lease. `fit`: eligible by the objects. `reason`: why it is not, in words. `synced`: it has
    the flow records of this node (written by the agent of the holder; true where sessions are not replicated). `macs`:
    of its announcing interfaces, as far as known."""

    node: str
    fit: bool = True
    reason: str = ""
    synced: bool = True
    macs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """A standby group, whose lease is voted about. `key` is `DIALECT/NAME`, `candidates` in order of preference.

    `addresses`: virtual addresses that go with the lease. `announce`: interfaces of this node that announce them.
    `wires`: interfaces of this node without whose link it is unfit (announcing ones need not be repeated).
    """

    lease: int
    key: str
    candidates: tuple[Candidate, ...]
    addresses: tuple[IPAddress, ...] = ()
    announce: tuple[str, ...] = ()
    wires: tuple[str, ...] = ()
    pace: Pace = Pace()
    failback: Failback = Failback.NEVER
    failback_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Watched:
    """A node that is probed for others' sake: the gateway of a group without a lease."""

    node: str
    pace: Pace = Pace()


@dataclass(frozen=True, slots=True)
class Voting:
    """`voting.json`. `nodes`: every node of the cluster, this one (`node`) included. `voters`: names, from the
    ConfigMap; `generation`: its number there, raised by each change. `stretch`: how many times more slowly than usual
    voters talk to each other; `pace` of groups and watched nodes is told as it is to be."""

    node: str
    nodes: tuple[Peer, ...]
    voters: tuple[str, ...]
    generation: int = 0
    groups: tuple[Group, ...] = ()
    watched: tuple[Watched, ...] = ()
    stretch: int = 1


class Cause(StrEnum):
    """Why a lease moved."""

    FIRST = "first"
    """It had no holder that anybody knew of."""
    LOST = "lost"
    """A majority lost the holder, or the holder lost the majority."""
    UNFIT = "unfit"
    """The objects no longer allow the holder: planned."""
    LINK = "link"
    """The holder lost the link of an interface that it needs."""
    FAILBACK = "failback"
    """A preferred candidate is back: planned."""


@dataclass(frozen=True, slots=True)
class Failover:
    """A move of a lease. `time`: seconds since the epoch, `origin`, `target`: nodes, `outage_ms`: how long nobody held
    it, as measured by the node that took it (0: not at all; None: unknown)."""

    time: float
    origin: str | None
    target: str
    cause: Cause
    outage_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """Somebody who is no candidate claimed a virtual address on an interface, last at `time`."""

    address: IPAddress
    mac: str
    interface: str
    time: float


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """What this node knows about a lease. `held`: this node holds it, as its kernel counts. `since`: when the present
    holder took it, as far as seen here (seconds since the epoch). `silent`: this node would not answer for the
    addresses. `duration_ms`: T of the grants given here. `vote`: for whom this node votes."""

    lease: int
    key: str
    holder: str | None
    epoch: int
    held: bool
    since: float | None = None
    silent: bool = False
    duration_ms: int = 0
    vote: str | None = None
    last_failover: Failover | None = None
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A probed node: `alive` as the majority of voters says, `seen` as this voter does (None: not known, or not
    probed from here), `voter_alive`: whether its voter process runs, `rtt_us`: of the last answer."""

    name: str
    alive: bool | None
    seen: bool | None = None
    voter_alive: bool | None = None
    rtt_us: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """`voter.json`, written when something in it changes, and once a second. `time`: seconds since the epoch.
    `voter`: this node votes. `realtime`: it has real-time priority. `quorum`: voters that were heard within a second,
    this one included, are a majority. `late_ms`: the latest wake-up of the last minute. `down`: interfaces that
    leases need and that have no link."""

    node: str
    time: float
    generation: int
    voter: bool
    realtime: bool = False
    quorum: bool = False
    late_ms: float = 0.0
    down: tuple[str, ...] = ()
    leases: tuple[LeaseReport, ...] = ()
    nodes: tuple[NodeReport, ...] = ()

    def lease(self, number: int) -> LeaseReport | None:
        return next((lease for lease in self.leases if lease.lease == number), None)


def dump(value: Voting | Report) -> str:
    """The file's text."""
    return json.dumps(asdict(value), default=_plain, separators=(",", ":"))


def write(path: Path, value: Voting | Report) -> None:
    """Put the file in place in one step. It need not survive a power cut: a node that restarts begins anew."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(dump(value))
    fresh.replace(path)


def read_voting(path: Path) -> Voting | None:
    """None when there is no file; raises ValueError for one that is not `voting.json`."""
    raw = _load(path)
    return None if raw is None else _checked(path, parse_voting, raw)


def read_report(path: Path) -> Report | None:
    """None when there is no file; raises ValueError for one that is not `voter.json`."""
    raw = _load(path)
    return None if raw is None else _checked(path, parse_report, raw)


def parse_voting(raw: Mapping[str, Any]) -> Voting:
    """From JSON's types; raises ValueError, KeyError or TypeError."""
    nodes = tuple(
        Peer(peer["name"], IPv4Address(peer["address"]), _v6(peer.get("address_v6"))) for peer in raw["nodes"]
    )
    known = {peer.name for peer in nodes}
    voting = Voting(
        node=raw["node"],
        nodes=nodes,
        voters=tuple(raw["voters"]),
        generation=raw.get("generation", 0),
        groups=tuple(_group(group) for group in raw.get("groups", ())),
        watched=tuple(Watched(item["node"], Pace(**item["pace"])) for item in raw.get("watched", ())),
        stretch=max(1, int(raw.get("stretch", 1))),
    )
    named = {voting.node, *voting.voters, *(item.node for item in voting.watched)}
    named.update(candidate.node for group in voting.groups for candidate in group.candidates)
    if not named <= known:
        raise ValueError(f"nodes without an address: {', '.join(sorted(named - known))}")
    return voting


def parse_report(raw: Mapping[str, Any]) -> Report:
    """From JSON's types; raises ValueError, KeyError or TypeError."""
    return Report(
        **{
            **raw,
            "down": tuple(raw.get("down", ())),
            "leases": tuple(_lease_report(lease) for lease in raw.get("leases", ())),
            "nodes": tuple(NodeReport(**node) for node in raw.get("nodes", ())),
        }
    )


def _group(raw: Mapping[str, Any]) -> Group:
    return Group(
        **{
            **raw,
            "candidates": tuple(
                Candidate(**{**candidate, "macs": tuple(candidate.get("macs", ()))}) for candidate in raw["candidates"]
            ),
            "addresses": tuple(ip_address(address) for address in raw.get("addresses", ())),
            "announce": tuple(raw.get("announce", ())),
            "wires": tuple(raw.get("wires", ())),
            "pace": Pace(**raw.get("pace", {})),
            "failback": Failback(raw.get("failback", Failback.NEVER)),
        }
    )


def _lease_report(raw: Mapping[str, Any]) -> LeaseReport:
    last = raw.get("last_failover")
    conflicts = tuple(Conflict(**{**item, "address": ip_address(item["address"])}) for item in raw.get("conflicts", ()))
    failover = Failover(**{**last, "cause": Cause(last["cause"])}) if last else None
    return LeaseReport(**{**raw, "last_failover": failover, "conflicts": conflicts})


def _v6(text: str | None) -> IPv6Address | None:
    return IPv6Address(text) if text else None


def _load(path: Path) -> Mapping[str, Any] | None:
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    if not isinstance(raw, dict):
        raise ValueError(f"{os.fspath(path)}: not an object")
    return raw


def _checked(path: Path, parse: Callable[[Mapping[str, Any]], T], raw: Mapping[str, Any]) -> T:
    try:
        return parse(raw)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)}: {error!r}") from error


def _plain(value: object) -> object:
    if isinstance(value, IPv4Address | IPv6Address):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"not for JSON: {value!r}")
