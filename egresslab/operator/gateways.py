"""What is true of a gateway now: who was observed to hold its lease, who could take over, and why others could not.

Pure: from the objects' decisions and the nodes' reports. Nothing here is a wish; where the reports do not say, the
answer is that nobody knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from egresslab.policy.engine import Engine
from egresslab.policy.groups import GroupState, ineligible
from egresslab.policy.model import GatewayGroup, GroupKey
from egresslab.policy.standby import StandbyGroup
from egresslab.voter.files import Cause, Conflict, Failover, LeaseReport, Report

CLAIM_LASTS_S = 10.0
"""A claim to an address is repeated within seconds while its maker is there."""


class Role(StrEnum):
    """What a candidate is to its gateway."""

    ACTIVE = "Active"
    STANDBY = "Standby"
    INELIGIBLE = "Ineligible"
    LOST = "Lost"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node of a gateway; `reason` says why it is not fit, in words, also for one that still holds the lease."""

    node: str
    role: Role
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether it is, or could now be, the gateway."""
        return self.role in (Role.ACTIVE, Role.STANDBY) and not self.reason


@dataclass(frozen=True, slots=True)
class GatewayView:
    """A gateway as observed. `known`: enough nodes answered for `active` None to mean that nobody holds the lease."""

    key: GroupKey
    group: GatewayGroup
    known: bool
    active: str | None
    candidates: tuple[Candidate, ...]
    failover: Failover | None = None
    silent: bool = False
    conflicts: tuple[Conflict, ...] = ()
    confirmed: bool = False
    """Whether the active node says so itself; else it is others' word, while its own agent does not answer."""
    refused: str = ""
    """Why a later version of the object is not in force, if so."""

    @property
    def ready_nodes(self) -> int:
        """How many nodes could be the gateway now."""
        return sum(candidate.ready for candidate in self.candidates)

    @property
    def electing(self) -> bool:
        """Whether nobody holds the lease though somebody could: a moment in between, unless it lasts."""
        return self.group.standby and self.known and self.active is None and self.ready_nodes > 0


def standby_view(standby: StandbyGroup, reports: Mapping[str, Report], asked: Collection[str]) -> GatewayView:
    """A standby group: its holder is whoever says so from its kernel, else whom a majority of those asked names."""
    answered = [node for node in asked if node in reports]
    known = 2 * len(answered) > len(asked)
    leases = {node: lease for node in answered for lease in reports[node].leases if lease.key == standby.key.text}
    alive = _alive(reports)
    active = _holder(leases, len(asked), alive)
    candidates = tuple(
        Candidate(c.node, _role(c.node, active, alive, c.reason), c.reason or _lost(c.node, active, alive))
        for c in standby.candidates
    )
    told = leases.get(active) if active is not None else None
    moves = [lease.last_failover for lease in ([told] if told else leases.values()) if lease.last_failover is not None]
    last = max((move for move in moves if move.cause is not Cause.FIRST), key=lambda move: move.time, default=None)
    return GatewayView(
        standby.key,
        standby.group,
        known,
        active,
        candidates,
        last,
        silent=told is not None and told.silent,
        conflicts=_claims(leases, reports),
        confirmed=told is not None and told.held,
    )


def spread_view(state: GroupState, engine: Engine, reports: Mapping[str, Report]) -> GatewayView:
    """A group whose pods are shared out: every eligible node is a gateway."""
    assert state.group is not None
    assert state.group.key is not None
    around, alive = engine.registry.around, _alive(reports)
    found = []
    for _, name in state.candidates[0]:
        reason = ineligible(around.nodes[name], state.group.members[0], state.group, around) or ""
        role = Role.INELIGIBLE if reason else Role.LOST if alive.get(name) is False else Role.ACTIVE
        found.append(Candidate(name, role, reason or (_UNREACHED if role is Role.LOST else "")))
    return GatewayView(state.group.key, state.group, True, None, tuple(found))


_UNREACHED = "does not answer the voters"


def _holder(leases: Mapping[str, LeaseReport], asked: int, alive: Mapping[str, bool]) -> str | None:
    held = [(lease.epoch, node) for node, lease in leases.items() if lease.held]
    if held:
        return max(held)[1]
    named = Counter(lease.holder for node, lease in leases.items() if lease.holder not in (None, node))
    for node, count in named.most_common(1):
        # Its agent is silent; its kernel may well hold. One that answers and does not hold is not the holder.
        if node not in leases and alive.get(str(node)) is not False and 2 * count > asked:
            return node
    return None


def _alive(reports: Mapping[str, Report]) -> dict[str, bool]:
    """Node to what most voters say of it."""
    votes: dict[str, Counter[bool]] = {}
    for report in reports.values():
        for seen in report.nodes if report.voter else ():
            if seen.alive is not None:
                votes.setdefault(seen.name, Counter())[seen.alive] += 1
    return {name: count[True] >= count[False] for name, count in votes.items()}


def _role(node: str, active: str | None, alive: Mapping[str, bool], reason: str | None) -> Role:
    if node == active:
        return Role.ACTIVE
    if alive.get(node) is False:
        return Role.LOST
    return Role.INELIGIBLE if reason else Role.STANDBY


def _lost(node: str, active: str | None, alive: Mapping[str, bool]) -> str:
    return _UNREACHED if node != active and alive.get(node) is False else ""


def _claims(leases: Mapping[str, LeaseReport], reports: Mapping[str, Report]) -> tuple[Conflict, ...]:
    """Others' claims to the addresses, each once, while they are fresh by the clock of the node that heard them."""
    found = {}
    for node, lease in leases.items():
        for claim in lease.conflicts:
            if reports[node].time - claim.time <= CLAIM_LASTS_S:
                found[claim.address, claim.mac] = claim
    return tuple(found[key] for key in sorted(found, key=lambda key: (key[0].version, int(key[0]), key[1])))
