"""Why a packet of a pod goes where it goes: the policy that decided, those that lost, the gateways considered.

It asks a live engine and computes nothing of its own that could disagree with it: the winner is the engine's entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from egresslab.policy.engine import Engine
from egresslab.policy.groups import GroupState, Surroundings, ineligible
from egresslab.policy.inventory import Node, Pod
from egresslab.policy.matching import pod_labels
from egresslab.policy.model import Address, Choice, GroupKey, Selection
from egresslab.policy.pods import PodState
from egresslab.policy.profiles import PolicyState, Row


class Verdict(StrEnum):
    """What becomes of the packet."""

    GATEWAY = "leaves through the gateway"
    EXCLUDED = "leaves untranslated: excluded"
    FAIL_OPEN = "leaves untranslated: no gateway, and failMode is Open"
    NO_GATEWAY = "dropped: no gateway"
    NO_EGRESS_IP = "dropped: the gateway has no egress IP for it"
    NO_POLICY = "leaves untranslated: no policy"
    IN_CLUSTER = "stays in the cluster: policies do not apply"
    NO_ADDRESS = "the pod has no address of that family"
    HOST_NETWORK = "leaves as the node's own: policies do not apply on the host's network"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One policy and what became of its claim."""

    policy: str
    won: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Considered:
    """One node that could have been the gateway."""

    node: str
    chosen: bool
    reason: str


@dataclass(slots=True)
class Explanation:
    """The answer; texts are for people, `verdict` and names for programs."""

    pod: str
    source: str | None
    destination: str
    verdict: Verdict
    policy: str | None = None
    prefix: str | None = None
    gateway_node: str | None = None
    gateway_ip: str | None = None
    egress_ip: str | None = None
    egress_interface: str | None = None
    candidates: list[Candidate] = field(default_factory=list)
    gateways: list[Considered] = field(default_factory=list)


def explain(engine: Engine, uid: str, destination: Address) -> Explanation:
    """The decision for one pod and destination; raises `KeyError` for a pod that the engine does not know."""
    state = engine.pods.by_uid[uid]
    source = next((a for a in engine.pods.owned(state) if a.version == destination.version), None)
    answer = Explanation(str(state.pod), str(source) if source else None, str(destination), Verdict.NO_POLICY)
    row = _winner(state, destination)
    inside, nothing = _inside(engine, destination), None
    if inside:
        nothing = "the packet does not leave the cluster"
    elif source is None:
        nothing = f"the pod has no IPv{destination.version} address"
    for policy in sorted(engine.registry.policies.values(), key=lambda each: each.policy.precedence):
        answer.candidates.append(_candidate(engine, state, policy, row, destination, nothing))
    if state.pod.host_network:
        answer.verdict = Verdict.IN_CLUSTER if inside else Verdict.HOST_NETWORK
    elif source is None:
        answer.verdict = Verdict.NO_ADDRESS
    elif inside:
        answer.verdict = Verdict.IN_CLUSTER
    elif row is not None:
        _decided(engine, state, row, answer)
    return answer


def _winner(state: PodState, destination: Address) -> Row | None:
    """The entry that the kernel's longest prefix match would find."""
    matching = [row for row in state.profile.rows(destination.version) if destination in row.network]
    return max(matching, key=lambda row: row.network.prefixlen, default=None)


def _decided(engine: Engine, state: PodState, row: Row, answer: Explanation) -> None:
    policy = row.state
    answer.policy, answer.prefix = str(policy.policy.key), row.written
    if row.excluded:
        answer.verdict = Verdict.EXCLUDED
        return
    group = policy.group
    position = state.position(group)
    slot = engine.registry.slots[policy.numbers[position]]
    answer.gateway_node = slot.gateway
    answer.gateway_ip = str(slot.gateway_ip) if slot.gateway_ip else None
    source = slot.source_v4 if row.network.version == 4 else slot.source_v6
    answer.egress_ip = str(source) if source else None
    answer.egress_interface = slot.interface
    if slot.gateway is None:
        answer.verdict = Verdict.FAIL_OPEN if slot.fail_open else Verdict.NO_GATEWAY
    else:
        answer.verdict = Verdict.GATEWAY if source else Verdict.NO_EGRESS_IP
    answer.gateways = _considered(engine, group, position)


def _candidate(
    engine: Engine,
    state: PodState,
    policy: PolicyState,
    winner: Row | None,
    destination: Address,
    nothing: str | None,
) -> Candidate:
    """`nothing` says why no policy decides over the packet, if so."""
    name = str(policy.policy.key)
    if policy not in state.profile.states:
        return Candidate(name, False, f"does not select the pod: {_unselected(engine, state.pod, policy)}")
    claims = [
        (cidr, excluded)
        for excluded, cidrs in ((True, policy.policy.exclusions), (False, policy.destinations))
        for cidr in cidrs
        if cidr.network.version == destination.version and destination in cidr.network
    ]
    if not claims or winner is None:
        return Candidate(name, False, f"selects the pod, but none of its destinations contains {destination}")
    cidr, excluded = max(claims, key=lambda claim: (claim[0].network.prefixlen, claim[1]))
    what = "excludes" if excluded else "claims"
    if nothing is not None:
        return Candidate(name, False, f"{what} {cidr.written}, but {nothing}")
    if policy is winner.state:
        verb = "excludes" if winner.excluded else "claims"
        return Candidate(name, True, f"{verb} {winner.written}, the longest prefix that contains {destination}")
    rival, own = winner.state.policy, policy.policy
    if cidr.network.prefixlen < winner.network.prefixlen:
        reason = f"{what} {cidr.written}, a shorter prefix than {winner.written} of {rival.key}"
    elif own.priority < rival.priority:
        reason = f"{what} {cidr.written}, but its priority {own.priority} is below {rival.priority} of {rival.key}"
    else:
        reason = f"{what} {cidr.written} as {rival.key} does, which comes first by name"
    return Candidate(name, False, reason)


def _unselected(engine: Engine, pod: Pod, policy: PolicyState) -> str:
    if pod.host_network:
        return "it is on the host's network"
    if not policy.policy.selections:
        return "the policy has no selectors"
    reasons = {_mismatch(engine, pod, selection): None for selection in policy.policy.selections}
    return "; ".join(reason for reason in reasons if reason) or "the node selectors of its other entries do not match"


def _mismatch(engine: Engine, pod: Pod, selection: Selection) -> str | None:
    labels = pod_labels(pod.namespace, pod.labels)
    for requirement in selection.pods.requirements:
        if not requirement.matches(labels):
            return f"podSelector needs {requirement}"
    namespace = engine.registry.namespace_labels(pod.namespace)
    for requirement in selection.namespaces.requirements if selection.namespaces else ():
        if not requirement.matches(namespace):
            return f"namespaceSelector needs {requirement}"
    if selection.nodes is None:
        return None
    node = engine.registry.nodes.get(pod.node or "")
    for requirement in selection.nodes.requirements:
        if not requirement.matches(node.labels if node is not None else {}):
            return (
                f"nodeSelector needs {requirement} on {pod.node or 'its node'}{'' if node else ', which is not known'}"
            )
    return None


def _considered(engine: Engine, group: GroupState, position: int) -> list[Considered]:
    """Every node, those that the selector does not match last."""
    around = engine.registry.around
    if group.group is None:
        return []
    gateway = group.positions[position]
    chosen = gateway.node if gateway else None
    found = [_judge(engine.registry.nodes[name], group, around, chosen) for name in sorted(engine.registry.nodes)]
    return sorted(found, key=lambda node: (not node.chosen, node.reason == UNSELECTED))


UNSELECTED = "does not match the gateway's nodeSelector"


def _judge(node: Node, group: GroupState, around: Surroundings, chosen: str | None) -> Considered:
    assert group.group is not None
    if node.name == chosen:
        return Considered(node.name, True, _why(group, around, node.name))
    members = [member for member in group.group.members if member.nodes.matches(node.labels)]
    if not members:
        return Considered(node.name, False, UNSELECTED)
    reason = ineligible(node, members[0], group.group, around)
    if reason is not None:
        return Considered(node.name, False, f"matches, but {reason}")
    return Considered(node.name, False, f"eligible, but {_why_not(group, around, chosen)}")


def _why(group: GroupState, around: Surroundings, node: str) -> str:
    assert group.group is not None
    if isinstance(group.key, GroupKey) and around.active.get(group.key) == node:
        return "it holds the gateway's lease"
    match group.group.choice:
        case Choice.FIRST_BY_NAME:
            return "the first eligible node by name"
        case Choice.LOWEST_HASH:
            return "the eligible node with the lowest hash for this gateway"
        case Choice.HASH_MODULO:
            return f"the pod's UID hashes to it among {group.shape.width} gateways"
        case Choice.RENDEZVOUS:
            return "it has the highest hash for the pod's bucket"


def _why_not(group: GroupState, around: Surroundings, chosen: str | None) -> str:
    assert group.group is not None
    if isinstance(group.key, GroupKey) and around.active.get(group.key) == chosen:
        return f"{chosen} holds the gateway's lease"
    match group.group.choice:
        case Choice.FIRST_BY_NAME:
            return f"{chosen} comes first by name"
        case Choice.LOWEST_HASH:
            return f"{chosen} has a lower hash for this gateway"
        case Choice.HASH_MODULO:
            return f"the pod's UID hashes to {chosen}"
        case Choice.RENDEZVOUS:
            return f"{chosen} has a higher hash for the pod's bucket"


def _inside(engine: Engine, destination: Address) -> bool:
    """Pods and nodes of the cluster are never reached through a gateway."""
    if engine.pods.holder(destination) is not None:
        return True
    return any(
        destination in (node.internal_v4, node.internal_v6) or any(destination in network for network in node.pod_cidrs)
        for node in engine.registry.nodes.values()
    )
