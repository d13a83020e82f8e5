"""Rules that need pods, nodes or other policies beside a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from itertools import combinations

from egresslab.policy.conditions import same_outcome
from egresslab.policy.entries import Reason
from egresslab.policy.groups import GroupState
from egresslab.policy.inventory import Node
from egresslab.policy.lint.findings import (
    CONFLICT,
    EGRESS_IP_NOWHERE,
    EGRESS_IP_UNSEEN,
    FAMILY,
    IN_CLUSTER,
    INTERFACE_MISSING,
    MAP_FULL,
    MISSING_GATEWAY,
    NO_GATEWAY_NODE,
    OVERLAP,
    SELECTS_NOTHING,
    SEVERAL_ADDRESSES,
    SEVERAL_GATEWAY_NODES,
    TOO_MANY_ADDRESSES,
    UNTRANSLATABLE,
    WHOLE_WORLD,
    Rule,
)
from egresslab.policy.lint.single import check_families, gateway_path
from egresslab.policy.lint.situation import Report, Situation
from egresslab.policy.matching import pod_labels, selects
from egresslab.policy.model import (
    Dialect,
    EgressPolicy,
    GatewayGroup,
    GroupKey,
    Network,
    PolicyKey,
    Selection,
    SourceKind,
)
from egresslab.policy.profiles import Row
from egresslab.policy.sources import resolve

RULE_OF_REASON: dict[Reason, Rule] = {
    Reason.EGRESS_IP_NOT_FOUND: EGRESS_IP_NOWHERE,
    Reason.INTERFACE_NOT_FOUND: INTERFACE_MISSING,
    Reason.NO_DEFAULT_ROUTE: INTERFACE_MISSING,
    Reason.FAMILY_MISSING: FAMILY,
}


def check(situation: Situation, report: Report) -> None:
    """All rules of this module."""
    positions = {policy.key: index for index, policy in situation.policies.items()}
    for index, policy in situation.policies.items():
        _selects_something(situation, index, policy, report)
        _destinations_outside(situation, index, policy, report)
        _gateways(situation, index, policy, report)
    for index, group in situation.groups.items():
        _named_gateway(situation, index, group, report)
    _disputes(situation, positions, report)
    for version in (4, 6):
        entries = situation.engine.count(version)
        if entries > situation.map_size:
            message = f"{entries} IPv{version} entries, and the map holds {situation.map_size}"
            report(None, MAP_FULL, "", message, "raise egress-gateway-policy-map-max, or select fewer pods")
    first = next((i for i, policy in situation.policies.items() if policy.key.dialect is Dialect.CILIUM), None)
    if first is not None:
        message = "GRE, ESP and other protocols without ports leave with the pod's or node's address in Cilium"
        report(first, UNTRANSLATABLE, "spec.destinationCIDRs", message, "forbid them with a network policy")


def _selects_something(situation: Situation, index: int, policy: EgressPolicy, report: Report) -> None:
    if not policy.selections:
        report(index, SELECTS_NOTHING, "spec.selectors", "no entries: no pod is selected", "add an entry")
    if not situation.pods:
        return
    for number, selection in enumerate(policy.selections):
        if selection.namespaces is not None and not situation.namespaces_known:
            continue
        pods = [pod for pod in situation.pods if not pod.host_network]
        if not any(_selected(situation, selection, pod.namespace, pod.labels, pod.node) for pod in pods):
            message = f"no pod matches ({selection.pods})"
            fix = "compare labels, namespace and node with those of the pods that are meant"
            report(index, SELECTS_NOTHING, f"spec.selectors[{number}]", message, fix)


def _selected(
    situation: Situation, selection: Selection, namespace: str, labels: Mapping[str, str], node_name: str | None
) -> bool:
    registry = situation.engine.registry
    if not selects(selection, pod_labels(namespace, labels), registry.namespace_labels(namespace)):
        return False
    if selection.nodes is None or node_name is None:
        return True
    node = registry.nodes.get(node_name)
    return selection.nodes.matches(node.labels if node is not None else {})


def _destinations_outside(situation: Situation, index: int, policy: EgressPolicy, report: Report) -> None:
    inside = dict(situation.inside)
    for node in situation.nodes:
        inside.update((network, f"node {node.name}") for network in _addresses(node))
    for number, cidr in enumerate(policy.destinations):
        met = [
            f"{network} ({what})"
            for network, what in inside.items()
            if network.version == cidr.network.version
            and network.overlaps(cidr.network)
            and not _excluded(policy, cidr.network, network)
        ]
        if met:
            rule = WHOLE_WORLD if cidr.network.prefixlen == 0 else IN_CLUSTER
            message = f"{cidr.written} overlaps {', '.join(met[:3])}{' and others' if len(met) > 3 else ''}"
            fix = "list the cluster's networks in excludedCIDRs"
            report(index, rule, f"spec.destinationCIDRs[{number}]", message, fix)


def _excluded(policy: EgressPolicy, destination: Network, inside: Network) -> bool:
    """Whether what destination and cluster have in common is excluded: of two that overlap, the longer prefix."""
    common = max(destination, inside, key=lambda network: network.prefixlen)
    return any(
        cidr.network.version == common.version
        and cidr.network.prefixlen <= common.prefixlen
        and common.network_address in cidr.network
        for cidr in policy.exclusions
    )


def _addresses(node: Node) -> list[Network]:
    return [ip_network(address) for address in (node.internal_v4, node.internal_v6) if address is not None]


def _gateways(situation: Situation, index: int, policy: EgressPolicy, report: Report) -> None:
    state = situation.engine.registry.policies[policy.key].group
    if isinstance(policy.group, GroupKey):
        if state.group is None:
            message = f"EgressGateway {policy.group.name} does not exist"
            leaks = policy.key.dialect is Dialect.DECKHOUSE
            fate = "Deckhouse itself lets these packets leak" if leaks else "these packets are dropped"
            fix = f"create it, or correct the name; without it {fate}"
            report(index, MISSING_GATEWAY, "spec.egressGatewayName", message, fix)
        else:
            check_families(index, "spec.egressGatewayName", state.group.members[0], policy.destinations, report)
        return
    if not situation.nodes:
        return
    for number, member in enumerate(policy.group.members):
        path = gateway_path(policy.group, number)
        matching = [name for _, name in state.candidates[number] if situation.engine.registry.nodes[name].internal_v4]
        if not matching:
            message = f"no node with an IPv4 address matches ({member.nodes})"
            report(index, NO_GATEWAY_NODE, f"{path}.nodeSelector", message, "label a node, or correct the selector")
        elif len(matching) > 1:
            message = f"{len(matching)} nodes match, and only {matching[0]} is used: {', '.join(matching[:5])}"
            fix = "select one node, or list several under egressGateways"
            report(index, SEVERAL_GATEWAY_NODES, f"{path}.nodeSelector", message, fix)
        _sorted_addresses(situation, index, policy.group, number, state, report)
    _sources(index, state, policy.group, report)


def _sorted_addresses(
    situation: Situation, index: int, group: GatewayGroup, number: int, state: GroupState, report: Report
) -> None:
    registry = situation.engine.registry
    gateway = state.firsts(registry.around)[number]
    if gateway is None:
        return
    source = replace(group.members[number].source, sorted_addresses=True)
    theirs = resolve(source, registry.nodes[gateway.node], group.families)
    for ours, other in ((gateway.source.source_v4, theirs.source_v4), (gateway.source.source_v6, theirs.source_v6)):
        if ours != other:
            message = f"of several addresses on {gateway.node}, {ours} is the first; Cilium takes {other}"
            report(index, SEVERAL_ADDRESSES, gateway_path(group, number), message, "write the one meant as egressIP")


def _sources(index: int, state: GroupState, group: GatewayGroup, report: Report) -> None:
    for gateway in state.positions:
        if gateway is None or gateway.source.reason is None:
            continue
        rule = RULE_OF_REASON.get(gateway.source.reason)
        if gateway.source.reason is Reason.INTERFACES_UNKNOWN and group.members[0].source.kind is SourceKind.ADDRESS:
            rule = EGRESS_IP_UNSEEN
        if rule is not None:
            path = gateway_path(group, 0).removesuffix("[0]")
            report(index, rule, path, gateway.source.message, "put the address on the node, or choose another")


def _named_gateway(situation: Situation, index: int, group: GatewayGroup, report: Report) -> None:
    assert group.key is not None
    state = situation.engine.registry.groups[group.key]
    if not situation.nodes:
        return
    candidates = [situation.engine.registry.nodes[name] for _, name in state.candidates[0]]
    source = group.members[0].source
    if not candidates:
        message = f"no node matches ({group.members[0].nodes})"
        report(index, NO_GATEWAY_NODE, "spec.nodeSelector", message, "label a node, or correct the selector")
    elif source.kind is SourceKind.ADDRESS and all(node.interfaces is not None for node in candidates):
        for number, address in enumerate(source.addresses):
            if not any(interface.carries(address) for node in candidates for interface in node.interfaces or ()):
                message = f"{address} is on no interface of any node that matches"
                fix = "put it on a node, or use virtualIPs"
                report(index, EGRESS_IP_NOWHERE, f"spec.source.addresses[{number}]", message, fix)
    for gateway in state.positions:
        if gateway is not None and gateway.source.reason is Reason.TOO_MANY_ADDRESSES:
            fix = "remove them, or share them out over several gateways"
            report(index, TOO_MANY_ADDRESSES, "spec.source", gateway.source.message, fix)
            break
    if candidates and all(gateway is None for gateway in state.positions):
        message = "nodes match, and none is eligible as a gateway"
        report(index, NO_GATEWAY_NODE, "spec", message, "see `egresslab policy explain` for each node's reason")


def _disputes(situation: Situation, positions: dict[PolicyKey, int], report: Report) -> None:
    for profile in situation.engine.profiles():
        for winner, loser in profile.contests:
            if not same_outcome(winner, loser):
                _conflict(positions, winner, loser, report)
        rows = profile.v4 + profile.v6
        for one, other in combinations(rows, 2):
            a, b = one.state.policy, other.state.policy
            if a.key == b.key or a.priority != b.priority or not _overlap(one.network, other.network):
                continue
            if not same_outcome(one, other):
                wide, narrow = sorted((one, other), key=lambda row: row.network.prefixlen)
                message = (
                    f"selects pods that {narrow.state.policy.key} selects too, and its {wide.written} overlaps "
                    f"{narrow.written} there; the longer prefix wins"
                )
                fix = "make sure that this is meant, or narrow a selector or a destination"
                report(positions[wide.state.policy.key], OVERLAP, "spec.destinationCIDRs", message, fix)


def _conflict(positions: dict[PolicyKey, int], winner: Row, loser: Row, report: Report) -> None:
    first, second = winner.state.policy.key, loser.state.policy.key
    if first == second:
        message = f"{loser.written} is both a destination and excluded; here the exclusion counts"
        report(positions[first], CONFLICT, "spec.excludedCIDRs", message, "remove one of the two")
        return
    message = f"{second} claims {winner.written} for the same pods with another outcome; here {first} wins"
    for key in (first, second):
        fix = "give them different pods, destinations or (in our dialect) priorities"
        report(positions[key], CONFLICT, "spec.destinationCIDRs", message, fix)


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)
