"""Gateway choice for one group, kept up to date as nodes come, go and change.

A group has positions: one where all pods use one gateway, several where pods are shared out. A pod finds its position
by a hash; what stands at a position changes without touching the pods.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

from egresslab.policy.entries import Reason, Slot
from egresslab.policy.hashing import election_order, weight
from egresslab.policy.inventory import Node
from egresslab.policy.model import Choice, Eligibility, FailMode, GatewayGroup, GroupKey, Member
from egresslab.policy.sources import Resolved, resolve, without_link

if TYPE_CHECKING:
    from egresslab.policy.profiles import PolicyState


class Gateway(NamedTuple):
    """What stands at a position: the node that translates and how it sources."""

    node: str
    address: IPv4Address
    source: Resolved


@dataclass(frozen=True, slots=True)
class Shape:
    """How pods find their position. Only a change of shape moves pods between slots."""

    choice: Choice
    width: int


SINGLE = Shape(Choice.FIRST_BY_NAME, 1)


class Surroundings(NamedTuple):
    """What a choice looks at besides the group."""

    nodes: Mapping[str, Node]
    unhealthy: frozenset[str] | set[str]
    active: Mapping[GroupKey, str]
    health_aware: bool
    buckets: int


def ineligible(node: Node, member: Member, group: GatewayGroup, around: Surroundings) -> str | None:
    """Why a selected node cannot be the gateway, in words; None when it can."""
    rules: Eligibility = group.eligibility
    if node.internal_v4 is None:
        return "has no IPv4 address"
    if group.key is None and around.health_aware:
        rules = Eligibility(ready=True, schedulable=True, healthy=True)
    if rules.ready and not node.ready:
        return "is not Ready"
    if rules.schedulable and not node.schedulable:
        return "is cordoned"
    if rules.healthy and node.name in around.unhealthy:
        return "was found unhealthy by its peers"
    if rules.sourced and node.interfaces is not None:
        source = resolve(member.source, node, group.families)
        if not source.usable:
            return source.message or "has no source address"
        unlinked = without_link(member.source, group.announce_interfaces, node.interfaces)
        if unlinked is not None:
            return unlinked
    if rules.healthy and group.key is not None:
        return node.unfit.get(group.key.text)
    return None


@dataclass(slots=True, eq=False)
class GroupState:
    """One group, its candidates in order of preference, its positions and their slot numbers."""

    group: GatewayGroup | None
    """None stands for a group that policies name and that does not exist."""
    key: GroupKey | GatewayGroup
    policies: dict[PolicyState, None] = field(default_factory=dict)
    """Who uses it."""
    users: dict[FailMode, int] = field(default_factory=dict)
    candidates: list[list[tuple[str, str]]] = field(default_factory=list)
    """For each member, (sort key, node name) of the nodes selected, sorted."""
    shape: Shape = SINGLE
    positions: list[Gateway | None] = field(default_factory=lambda: [None])
    numbers: dict[FailMode, list[int]] = field(default_factory=dict)
    eligible: frozenset[str] = frozenset()
    judged: dict[tuple[int, str], tuple[Node, bool, Gateway | None]] = field(default_factory=dict)
    """For each member and node: what was looked at, and what came of it."""

    def has(self, name: str) -> bool:
        """Whether a node is a candidate."""
        item = (self._order(name), name)
        return any(
            at < len(candidates) and candidates[at] == item
            for candidates in self.candidates
            for at in (bisect_left(candidates, item),)
        )

    def slot(self, number: int, gateway: Gateway | None, mode: FailMode) -> Slot:
        """What stands at a position, as a slot."""
        fail_open = mode is FailMode.OPEN
        lease = self.group.key if self.group is not None and self.group.standby else None
        if gateway is None:
            return Slot(number, None, None, fail_open=fail_open, lease=lease)
        source = gateway.source
        return Slot(
            number,
            gateway.node,
            gateway.address,
            source.source_v4,
            source.source_v6,
            source.interface,
            source.spill_v4,
            source.spill_v6,
            fail_open,
            lease,
        )

    def select(self, node: Node) -> bool:
        """Take a node in as a candidate, or out, by its labels; whether it is or was one."""
        concerned = self.forget(node.name)
        if self.group is None:
            return concerned
        for member, candidates in zip(self.group.members, self.candidates, strict=True):
            if member.nodes.matches(node.labels):
                insort(candidates, (self._order(node.name), node.name))
                concerned = True
        return concerned

    def forget(self, name: str) -> bool:
        """Take a node out; whether it was a candidate."""
        concerned = False
        item = (self._order(name), name)
        for index, candidates in enumerate(self.candidates):
            at = bisect_left(candidates, item)
            if at < len(candidates) and candidates[at] == item:
                del candidates[at]
                self.judged.pop((index, name), None)
                concerned = True
        return concerned

    def restart(self, group: GatewayGroup | None, nodes: Mapping[str, Node]) -> None:
        """Become another group (or none): choose candidates anew. Positions follow with `choose`."""
        self.group = group
        self.eligible = frozenset()
        self.judged.clear()
        self.candidates = [[] for _ in group.members] if group else []
        if group is None:
            return
        for member, candidates in zip(group.members, self.candidates, strict=True):
            candidates.extend(
                (self._order(node.name), node.name) for node in nodes.values() if member.nodes.matches(node.labels)
            )
            candidates.sort()

    def choose(self, around: Surroundings) -> tuple[Shape, list[Gateway | None], frozenset[str]]:
        """Shape and positions as they should be now, and the eligible nodes where positions depend on them."""
        if self.group is None:
            return SINGLE, [None], frozenset()
        choice = self.group.choice
        if choice is Choice.HASH_MODULO:
            found = sorted((g for g in self.firsts(around) if g is not None), key=lambda gateway: gateway.address)
            return Shape(choice, max(len(found), 1)), [*found] or [None], frozenset()
        if choice is Choice.RENDEZVOUS:
            return self._rendezvous(around)
        return SINGLE, [self._active(around) or self._first(0, around)], frozenset()

    def firsts(self, around: Surroundings) -> list[Gateway | None]:
        """For each member, the node that would be the gateway if the member stood alone."""
        return [self._first(index, around) for index in range(len(self.candidates))]

    def _order(self, node: str) -> str:
        if self.group is not None and self.group.choice is Choice.LOWEST_HASH and self.group.key is not None:
            return election_order(self.group.key.name, node)
        return node

    def _active(self, around: Surroundings) -> Gateway | None:
        """The node that holds the group's lease. What the objects say of it is the voters' business, not ours: while
        it holds, its packets leave, and nobody else's do."""
        assert self.group is not None
        name = around.active.get(self.group.key) if self.group.key is not None else None
        node = around.nodes.get(name) if name is not None else None
        if node is None or node.internal_v4 is None:
            return None
        return Gateway(node.name, node.internal_v4, resolve(self.group.members[0].source, node, self.group.families))

    def _first(self, index: int, around: Surroundings) -> Gateway | None:
        for _, name in self.candidates[index]:
            gateway = self._gateway(index, name, around)
            if gateway is not None:
                return gateway
        return None

    def _gateway(self, index: int, name: str, around: Surroundings) -> Gateway | None:
        """The node as a gateway; judged anew only when it or its health has changed."""
        node, unhealthy = around.nodes[name], name in around.unhealthy
        known = self.judged.get((index, name))
        if known is None or known[0] is not node or known[1] is not unhealthy:
            known = self.judged[index, name] = node, unhealthy, self._judge(index, node, around)
        return known[2]

    def _judge(self, index: int, node: Node, around: Surroundings) -> Gateway | None:
        assert self.group is not None
        member = self.group.members[index]
        if ineligible(node, member, self.group, around) is not None:
            return None
        assert node.internal_v4 is not None  # eligible
        return Gateway(node.name, node.internal_v4, resolve(member.source, node, self.group.families))

    def _rendezvous(self, around: Surroundings) -> tuple[Shape, list[Gateway | None], frozenset[str]]:
        """Only buckets of nodes that went, and those that a newcomer wins, are looked at again."""
        assert self.group is not None
        found = {name: self._gateway(0, name, around) for _, name in self.candidates[0]}
        gateways = {name: gateway for name, gateway in found.items() if gateway is not None}
        shape = Shape(Choice.RENDEZVOUS, around.buckets)
        if not gateways:
            return shape, [None] * around.buckets, frozenset()
        before = self.positions if self.shape == shape else [None] * around.buckets
        newcomers = gateways.keys() - self.eligible
        positions: list[Gateway | None] = []
        for bucket, holder in enumerate(before):
            if holder is not None and holder.node in gateways and holder.node in self.eligible:
                rivals: list[str] = [holder.node, *newcomers]
            else:
                rivals = list(gateways)
            winner = rivals[0] if len(rivals) == 1 else max(rivals, key=_weight_in(bucket))
            positions.append(gateways[winner])
        return shape, positions, frozenset(gateways)


def _weight_in(bucket: int) -> Callable[[str], tuple[bytes, str]]:
    return lambda node: (weight(bucket, node), node)


def group_problem(state: GroupState) -> tuple[Reason, str] | None:
    """What keeps a group from serving, if anything."""
    if state.group is None:
        return Reason.NO_GATEWAY_OBJECT, "the EgressGateway that it names does not exist: its traffic is dropped"
    if all(gateway is None for gateway in state.positions):
        if not any(state.candidates):
            return Reason.NO_GATEWAY_NODE, "no node matches the gateway's nodeSelector"
        names = ", ".join(sorted({name for candidates in state.candidates for _, name in candidates})[:5])
        return Reason.NO_GATEWAY_NODE, f"none of the nodes that match is eligible as a gateway ({names})"
    for gateway in state.positions:
        if gateway is not None and gateway.source.reason is not None:
            return gateway.source.reason, gateway.source.message
    return None
