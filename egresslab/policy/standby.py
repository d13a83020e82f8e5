"""Who may hold a standby group's lease, in which order, and who is fit for it: what the voters are asked to decide.

Whether a node is alive is not looked at here: that is what voters find out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from egresslab.policy.engine import Engine
from egresslab.policy.groups import GroupState, Surroundings, ineligible
from egresslab.policy.inventory import Node
from egresslab.policy.model import GatewayGroup, GroupKey, HealthProbe, SourceKind
from egresslab.policy.sources import Resolved, resolve


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node in a group's order; `reason` says why it is not fit."""

    node: str
    address: IPv4Address
    reason: str | None = None

    @property
    def fit(self) -> bool:
        """Whether it may be given the lease."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class StandbyGroup:
    """One lease and those who may hold it, the preferred one first."""

    key: GroupKey
    group: GatewayGroup
    candidates: tuple[Candidate, ...]


Doubt = Callable[[GatewayGroup, Node], str | None]
"""Why a node should not be the gateway of a group, from what others know of it; None without a doubt."""


def standby_groups(engine: Engine, doubt: Doubt = lambda group, node: None) -> Iterator[StandbyGroup]:
    """Every standby group that exists. A holder that is no candidate any more stays on the list, last and not fit,
    until it has handed over."""
    around = engine.registry.around
    for state in engine.registry.groups.values():
        if state.group is None or not state.group.standby or state.group.key is None:
            continue
        names = [name for _, name in state.candidates[0]]
        holder = around.active.get(state.group.key)
        if holder in around.nodes and holder is not None and holder not in names:
            names.append(holder)
        candidates = tuple(
            candidate for name in names if (candidate := _candidate(state, around, name, doubt)) is not None
        )
        yield StandbyGroup(state.group.key, state.group, candidates)


def probed_nodes(engine: Engine) -> Mapping[str, tuple[IPv4Address, HealthProbe]]:
    """Nodes of every other group that passes unhealthy gateways over, each with its most demanding probe."""
    around = engine.registry.around
    found: dict[str, tuple[IPv4Address, HealthProbe]] = {}
    for state in engine.registry.groups.values():
        group = state.group
        if (
            group is None
            or group.standby
            or not (group.eligibility.healthy or (group.key is None and around.health_aware))
        ):
            continue
        for name in sorted({name for candidates in state.candidates for _, name in candidates}):
            address = around.nodes[name].internal_v4
            if address is not None:
                known = found.get(name)
                hasty = min((known[1], group.health) if known else (group.health,), key=_haste)
                found[name] = address, hasty
    return found


def own_source(engine: Engine, key: GroupKey, node: str) -> Resolved | None:
    """What `node` leaves with when it holds the group's lease; None when it neither may hold it nor does."""
    state = engine.registry.groups.get(key)
    around = engine.registry.around
    if state is None or state.group is None or node not in around.nodes:
        return None
    if not state.has(node) and around.active.get(key) != node:
        return None
    return resolve(state.group.members[0].source, around.nodes[node], state.group.families)


def _candidate(state: GroupState, around: Surroundings, name: str, doubt: Doubt) -> Candidate | None:
    assert state.group is not None
    node = around.nodes[name]
    if node.internal_v4 is None:
        return None
    if not state.has(name):
        return Candidate(name, node.internal_v4, "is not selected any more")
    alive = around._replace(unhealthy=frozenset())
    reason = (
        ineligible(node, state.group.members[0], state.group, alive)
        or _unannounced(state.group, node)
        or doubt(state.group, node)
    )
    return Candidate(name, node.internal_v4, reason)


def _unannounced(group: GatewayGroup, node: Node) -> str | None:
    """A virtual address needs an interface to be announced on."""
    if group.members[0].source.kind is not SourceKind.VIRTUAL or node.interfaces is None:
        return None
    names = {name for interface in node.interfaces for name in (interface.name, *interface.altnames)}
    if not names:
        return "has no interface that leads out"
    if group.announce_interfaces and not names & set(group.announce_interfaces):
        return f"has none of the interfaces {', '.join(group.announce_interfaces)}"
    return None


def _haste(probe: HealthProbe) -> tuple[float, float, int]:
    """How soon a probe finds a node lost."""
    return probe.interval_s * (probe.failures + 1), probe.interval_s, probe.recoveries
