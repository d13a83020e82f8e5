"""What the entries are, computed plainly from all values at once: the yardstick for the engine, and nothing else.

It shares the reading of objects and the rule for source addresses with the engine; matching, precedence and choice are
written again, in the shortest way that is obviously right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from egresslab.policy.hashing import bucket_of, election_order, fnv1a_32, weight
from egresslab.policy.identities import as_cilium_sees
from egresslab.policy.inventory import (
    NAMESPACE_NAME_LABEL,
    POD_NAMESPACE_LABEL,
    ActiveChoice,
    DomainAnswer,
    Namespace,
    Node,
    NodeHealth,
    Pod,
    Value,
)
from egresslab.policy.model import (
    Address,
    Choice,
    Dialect,
    EgressPolicy,
    FailMode,
    GatewayGroup,
    Member,
    Network,
    PolicyKey,
)
from egresslab.policy.names import covers, host_cidr
from egresslab.policy.settings import DEFAULTS, Fidelity, Settings
from egresslab.policy.sources import Resolved, resolve, without_link

Gateway = tuple[str, Address, Resolved]
"""Node, node address, source."""


class Outcome(NamedTuple):
    """What one (source, destination) means."""

    policy: PolicyKey
    written: str
    excluded: bool
    gateway: Gateway | None
    fail_open: bool


V = TypeVar("V")


def compute(values: Iterable[Value], settings: Settings = DEFAULTS) -> dict[tuple[Address, Network], Outcome]:
    """All entries that these values amount to."""
    return _World(list(values), settings).entries()


class _World:
    def __init__(self, values: list[Value], settings: Settings) -> None:
        def of(kind: type[V]) -> list[V]:
            return [value for value in values if isinstance(value, kind)]

        self.settings = settings
        self.pods = of(Pod)
        self.namespaces = {namespace.name: namespace.labels for namespace in of(Namespace)}
        self.nodes = {node.name: node for node in of(Node)}
        self.unhealthy = {health.node for health in of(NodeHealth) if not health.healthy}
        self.active = {choice.group: choice.node for choice in of(ActiveChoice)}
        self.answers = of(DomainAnswer)
        self.policies = sorted(map(self._read, of(EgressPolicy)), key=lambda policy: policy.precedence)
        self.chosen: dict[tuple[GatewayGroup, int | None], list[Gateway | None]] = {}
        self.groups = {group.key: group for group in of(GatewayGroup)}

    def _read(self, policy: EgressPolicy) -> EgressPolicy:
        cilium = self.settings.fidelity is Fidelity.CILIUM and policy.key.dialect is Dialect.CILIUM
        return as_cilium_sees(policy) if cilium else policy

    def entries(self) -> dict[tuple[Address, Network], Outcome]:
        owners: dict[Address, Pod] = {}
        for pod in self.pods:
            for address in () if pod.host_network else pod.addresses:
                owners[address] = _owner(owners.get(address, pod), pod)
        found = {}
        for address, pod in owners.items():
            for network, outcome in self._table(pod, address).items():
                found[address, network] = outcome
        return found

    def _table(self, pod: Pod, address: Address) -> dict[Network, Outcome]:
        table: dict[Network, Outcome] = {}
        priorities: dict[Network, int] = {}
        for policy in self.policies:
            if not self._selects(policy, pod):
                continue
            gateway = self._gateway(policy, pod)
            claims = [(cidr, True) for cidr in policy.exclusions]
            claims += [(cidr, False) for cidr in policy.destinations]
            claims += [(host_cidr(a), False) for a in self._resolved(policy)]
            for cidr, excluded in claims:
                network = cidr.network
                if network.version != address.version or network in table:
                    continue
                if any(
                    priority > policy.priority
                    and other.network_address <= network.network_address  # type: ignore[operator]
                    and network.broadcast_address <= other.broadcast_address  # type: ignore[operator]
                    for other, priority in priorities.items()
                ):
                    continue
                fail_open = policy.fail_mode is FailMode.OPEN
                table[network] = Outcome(policy.key, cidr.written, excluded, gateway, fail_open)
                priorities[network] = policy.priority
        return table

    def _resolved(self, policy: EgressPolicy) -> list[Address]:
        return [
            address
            for answer in self.answers
            if any(covers(pattern, answer.name) for pattern in policy.domains)
            for address in answer.addresses
        ]

    def _selects(self, policy: EgressPolicy, pod: Pod) -> bool:
        labels = {**pod.labels, POD_NAMESPACE_LABEL: pod.namespace}
        namespace_labels = self.namespaces.get(pod.namespace, {NAMESPACE_NAME_LABEL: pod.namespace})
        node = self.nodes.get(pod.node or "")
        node_labels = node.labels if node is not None else {}
        matched = [
            selection
            for selection in policy.selections
            if selection.pods.matches(labels)
            and (selection.namespaces is None or selection.namespaces.matches(namespace_labels))
        ]
        if self.settings.fidelity is Fidelity.CILIUM and policy.key.dialect is Dialect.CILIUM:
            pool = [selection.nodes for selection in policy.selections if selection.nodes is not None]
            return bool(matched) and (not pool or any(nodes.matches(node_labels) for nodes in pool))
        return any(selection.nodes is None or selection.nodes.matches(node_labels) for selection in matched)

    def _gateway(self, policy: EgressPolicy, pod: Pod) -> Gateway | None:
        group = policy.group if isinstance(policy.group, GatewayGroup) else self.groups.get(policy.group)
        if group is None:
            return None
        if group.choice is Choice.HASH_MODULO:
            found = self._once((group, None), lambda: self._modulo(group))
            return found[fnv1a_32(pod.endpoint_uid or pod.uid) % len(found)] if found else None
        if group.choice is Choice.RENDEZVOUS:
            bucket = bucket_of(pod.namespace, pod.name, 1 << 32) % self.settings.buckets
            return self._once((group, bucket), lambda: self._rendezvous(group, bucket))[0]
        return self._once((group, None), lambda: self._standby(group))[0]

    def _once(
        self, key: tuple[GatewayGroup, int | None], choose: Callable[[], list[Gateway | None]]
    ) -> list[Gateway | None]:
        """What is the same for all pods is computed once."""
        if key not in self.chosen:
            self.chosen[key] = choose()
        return self.chosen[key]

    def _modulo(self, group: GatewayGroup) -> list[Gateway | None]:
        firsts = [self._first(group, member, sorted(self.nodes)) for member in group.members]
        return [*sorted((first for first in firsts if first is not None), key=lambda gateway: int(gateway[1]))]

    def _rendezvous(self, group: GatewayGroup, bucket: int) -> list[Gateway | None]:
        order = sorted(self.nodes, key=lambda name: (weight(bucket, name), name), reverse=True)
        return [self._first(group, group.members[0], order)]

    def _standby(self, group: GatewayGroup) -> list[Gateway | None]:
        order = sorted(self.nodes)
        key = group.key
        if group.choice is Choice.LOWEST_HASH and key is not None:
            order.sort(key=lambda name: election_order(key.name, name))
        holder = self.nodes.get(self.active.get(key, "")) if key else None
        if holder is not None and holder.internal_v4 is not None:
            return [(holder.name, holder.internal_v4, resolve(group.members[0].source, holder, group.families))]
        return [self._first(group, group.members[0], order)]

    def _first(self, group: GatewayGroup, member: Member, order: Iterable[str | None]) -> Gateway | None:
        for name in order:
            node = self.nodes[name or ""]
            if member.nodes.matches(node.labels) and self._eligible(group, member, node):
                assert node.internal_v4 is not None
                return node.name, node.internal_v4, resolve(member.source, node, group.families)
        return None

    def _eligible(self, group: GatewayGroup, member: Member, node: Node) -> bool:
        rules: Mapping[str, bool] = {
            "ready": group.eligibility.ready,
            "schedulable": group.eligibility.schedulable,
            "healthy": group.eligibility.healthy,
        }
        if group.key is None and self.settings.cilium_health_aware_gateways:
            rules = dict.fromkeys(rules, True)
        if group.eligibility.sourced and node.interfaces is not None:
            answer = resolve(member.source, node, group.families)
            if answer.source_v4 is None and answer.source_v6 is None:
                return False
            if without_link(member.source, group.announce_interfaces, node.interfaces) is not None:
                return False
        if rules["healthy"] and group.key is not None and f"{group.key.dialect}/{group.key.name}" in node.unfit:
            return False
        return (
            node.internal_v4 is not None
            and (node.ready or not rules["ready"])
            and (node.schedulable or not rules["schedulable"])
            and (node.name not in self.unhealthy or not rules["healthy"])
        )


def _owner(one: Pod, other: Pod) -> Pod:
    """Whose an address is: not one that is going, then the one made last, then the lower UID."""
    if one.terminating != other.terminating:
        return other if one.terminating else one
    if one.created != other.created:
        return max(one, other, key=lambda pod: pod.created)
    return min(one, other, key=lambda pod: pod.uid)
