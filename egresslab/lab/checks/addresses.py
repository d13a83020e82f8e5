"""Checks of the source address that the outside world sees."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from egresslab.api.resources import CILIUM_POLICIES
from egresslab.lab import intent, probes
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome
from egresslab.lab.entries import IPAddress
from egresslab.lab.nodes import Node, Pod
from egresslab.lab.probes import OUTSIDE_URL, Answer

IN_A_ROW = 10


def source_is_node(bench: Bench, pod: str | Sequence[str], url: str = OUTSIDE_URL) -> Finding:
    """Each pod leaves with the address of the node it runs on."""
    by_name = {node.name: node for node in bench.nodes}

    def expected(runs: Pod) -> IPAddress:
        node: Node = by_name[runs.node]
        return node.address(family(url))

    return _compare(bench, _names(pod), url, expected, "the address of the pod's own node")


def source_is_egress_ip(bench: Bench, pod: str | Sequence[str], policy: str, url: str = OUTSIDE_URL) -> Finding:
    """Each pod leaves with the address that the policy gives."""
    wish = wanted(bench, policy)
    if wish is None:
        return missing(policy)
    source = wish.source(family(url))
    return _compare(bench, _names(pod), url, lambda _: source, f"the egress IP of {policy} on {wish.gateway.name}")


def source_is_address(bench: Bench, pod: str, address: str, url: str = OUTSIDE_URL) -> Finding:
    """The pod leaves with this very address; leaving with its node's means that nothing has been done yet."""
    wish = ipaddress.ip_address(address)
    runs = bench.pod(pod)
    own = next(node.address(wish.version) for node in bench.nodes if node.name == runs.node)
    answer = bench.reach(pod, url)
    outcome = Outcome.PASS if answer.address == wish else Outcome.FAIL
    if outcome is Outcome.FAIL and answer.address == own:
        outcome = Outcome.NOT_ATTEMPTED
    return Finding(
        outcome, str(wish), f"{answer} (pod on {runs.node})", probes.typed(pod, bench.current_namespace, url)
    )


def answers_in_a_row(bench: Bench, pod: str, policy: str, url: str = OUTSIDE_URL) -> Finding:
    """Ten requests one after another, each a connection of its own, all answered and all from the egress IP."""
    wish = wanted(bench, policy)
    if wish is None:
        return missing(policy)
    source = wish.source(family(url))
    answers = [bench.reach(pod, url) for _ in range(IN_A_ROW)]
    good = sum(answer.address == source for answer in answers)
    bad = next((f"; one of the others: {answer}" for answer in answers if answer.address != source), "")
    return Finding(
        Outcome.PASS if good == IN_A_ROW else Outcome.FAIL,
        f"{IN_A_ROW} answers, all seeing {source}",
        f"{good} of {IN_A_ROW}{bad}",
        probes.typed(pod, bench.current_namespace, url),
    )


def wanted(bench: Bench, policy: str) -> intent.Intent | None:
    """What the policy of that name says, or None when there is no such policy."""
    for body in bench.objects(CILIUM_POLICIES):
        if body["metadata"]["name"] == policy:
            return intent.read(body, bench.nodes)
    return None


def missing(policy: str) -> Finding:
    """The finding for a policy that nobody has applied."""
    return Finding(
        Outcome.NOT_ATTEMPTED,
        f"a CiliumEgressGatewayPolicy named {policy}",
        "there is none of that name",
        "kubectl get ciliumegressgatewaypolicies",
    )


def family(url: str) -> int:
    """4 or 6: the family of the address in a URL; names count as 4."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return 4


def _names(pod: str | Sequence[str]) -> list[str]:
    return [pod] if isinstance(pod, str) else list(pod)


def _compare(bench: Bench, names: list[str], url: str, expected: Callable[[Pod], IPAddress], meaning: str) -> Finding:
    seen: list[tuple[Pod, IPAddress, Answer]] = []
    for name in names:
        pod = bench.pod(name)
        seen.append((pod, expected(pod), bench.reach(name, url)))
    right = all(answer.address == address for _, address, answer in seen)
    wanted_addresses = ", ".join(dict.fromkeys(str(address) for _, address, _ in seen))
    if len(seen) == 1:
        observed = f"{seen[0][2]} (pod on {seen[0][0].node})"
    else:
        observed = ", ".join(f"{pod.name} on {pod.node}: {answer}" for pod, _, answer in seen)
    return Finding(
        Outcome.PASS if right else Outcome.FAIL,
        f"{wanted_addresses}: {meaning}",
        observed,
        probes.typed(names[0], bench.current_namespace, url),
    )


CHECKS = (
    Check(
        "source-is-node",
        "the outside sees the address of the pod's node",
        source_is_node,
        (
            "Ask the server outside which address it sees, and look up where the pod runs.",
            "Compare the answer with the INTERNAL-IP of that node in `kubectl get nodes -o wide`.",
            "Another address means that a policy still selects this pod: `kubectl get ciliumegressgatewaypolicies`.",
        ),
    ),
    Check(
        "source-is-egress-ip",
        "the outside sees the policy's egress IP",
        source_is_egress_ip,
        (
            "Look at the policy's three parts: whom it selects, which destinations, which gateway.",
            "Compare the pod's labels and namespace with the selector, and the destination with destinationCIDRs.",
            "List the map on the gateway. Egress IP 0.0.0.0 in the pod's row: the gateway does not carry the address. "
            "No row at all: the selector does not match.",
        ),
    ),
    Check(
        "source-is-address",
        "the outside sees the address that was asked for",
        source_is_address,
        (
            "Start from the chapter's policy: other pods, another destination, another gateway.",
            "A node can be selected by its name: the label kubernetes.io/hostname carries it.",
            "In nodeSelector, matchLabels: kubernetes.io/hostname: NODE; and egressIP: an address that NODE carries.",
        ),
    ),
    Check(
        "answers-in-a-row",
        "replies come back, every time",
        answers_in_a_row,
        (
            "One answer could be luck: ask several times, and see whether every request is answered.",
            "A request that is never answered left with an address that the way back does not lead to.",
            "Compare the rows on the pod's node and on the gateway: both must name the same gateway.",
        ),
        within_s=20.0,
    ),
)
