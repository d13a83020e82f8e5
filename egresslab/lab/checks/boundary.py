"""Checks of the boundary: what the firewall outside lets in, and what a capture on the wire shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from egresslab.lab import probes
from egresslab.lab.capture import Capture
from egresslab.lab.checks.addresses import missing, wanted
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome
from egresslab.lab.entries import IPAddress
from egresslab.lab.firewall import Contact
from egresslab.lab.nodes import Pod
from egresslab.lab.probes import OUTSIDE_URL, Answer

RECENT = timedelta(seconds=20)
"""How far back a line of the firewall's log may lie to be about this check."""


def outside_admits(bench: Bench, pod: str | Sequence[str], url: str = OUTSIDE_URL) -> Finding:
    """Each pod gets an answer, with an allow-list in force, and the firewall's log has it as accepted."""
    if bench.firewall.allowed() is None:
        return _no_list()
    names = [pod] if isinstance(pod, str) else list(pod)
    knocks = [_knock(bench, name, url, admitted=True) for name in names]
    passed = all(knock.answer.address is not None and knock.contact is not None for knock in knocks)
    return Finding(
        Outcome.PASS if passed else Outcome.FAIL,
        "an answer for every pod, and a line “accepted” in the firewall's log",
        "; ".join(map(str, knocks)),
        probes.typed(names[0], bench.current_namespace, url),
    )


def outside_refuses(bench: Bench, pod: str, url: str = OUTSIDE_URL) -> Finding:
    """The pod gets no answer, and the firewall's log has its node's address as refused."""
    if bench.firewall.allowed() is None:
        return _no_list()
    knock = _knock(bench, pod, url, admitted=False)
    refused = knock.answer.address is None and knock.contact is not None
    return Finding(
        Outcome.PASS if refused else Outcome.FAIL,
        "no answer, and a line “refused” in the firewall's log",
        str(knock),
        probes.typed(pod, bench.current_namespace, url),
    )


def wire_shows_only_egress_ip(bench: Bench, capture: Capture, policy: str) -> Finding:
    """A capture on the public side saw packets of the pods, all from the egress IP."""
    wish = wanted(bench, policy)
    if wish is None:
        return missing(policy)
    seen = capture.sources
    expected = set(wish.sources.values())
    if not seen:
        return Finding(Outcome.NOT_ATTEMPTED, "packets in the capture", "none at all", capture.typed)
    strangers = [address for address in seen if address not in expected]
    return Finding(
        Outcome.FAIL if strangers else Outcome.PASS,
        f"no source but {' and '.join(map(str, sorted(expected, key=str)))}",
        ", ".join(f"{address} ({count} packets)" for address, count in seen.items()),
        capture.typed,
    )


def _no_list() -> Finding:
    return Finding(
        Outcome.NOT_ATTEMPTED,
        "an allow-list on the firewall outside",
        "the firewall lets everybody in",
        "kubectl -n outside get configmap firewall -o yaml",
    )


@dataclass(frozen=True, slots=True)
class Knock:
    """One request of a pod, and what the firewall's log says of its node's recent ones."""

    pod: Pod
    answer: Answer
    contact: Contact | None

    def __str__(self) -> str:
        logged = f"{self.contact.verdict} {self.contact.source}" if self.contact else "no such line yet"
        return f"{self.pod.name} on {self.pod.node}: {self.answer}; log: {logged}"


def _knock(bench: Bench, name: str, url: str, *, admitted: bool) -> Knock:
    """Send a request, and look for a recent line with that verdict and an address that can be the pod's.

    The log is shown a moment after the packet, so the line of an earlier request of this check counts as well.
    """
    pod, answer = bench.pod(name), bench.reach(name, url)
    possible = {answer.address} if answer.address else set(_node_addresses(bench, pod))
    since = datetime.now(UTC) - RECENT
    recent = [contact for contact in bench.firewall.log() if contact.time > since and contact.source in possible]
    fitting = [contact for contact in recent if contact.admitted is admitted]
    return Knock(pod, answer, fitting[-1] if fitting else None)


def _node_addresses(bench: Bench, pod: Pod) -> tuple[IPAddress, ...]:
    return next(node.addresses for node in bench.nodes if node.name == pod.node)


CHECKS = (
    Check(
        "outside-admits",
        "the allow-list outside admits the pod",
        outside_admits,
        (
            "Find out which address the pod leaves with, and which addresses the allow-list names.",
            "The pod leaves with the address of the node it runs on; that address has to be covered by the list.",
            "lab.firewall.allow([...]) takes single addresses and networks; 192.168.60.0/24 covers every node.",
        ),
        within_s=6.0,
    ),
    Check(
        "outside-refuses",
        "the allow-list outside refuses the pod",
        outside_refuses,
        (
            "Look at the firewall's log: lab.firewall.log().",
            "Compare the refused address with the allow-list, and with the nodes' addresses.",
            "If the pod is admitted, it still runs on the node that the list names: `kubectl get pods -o wide`.",
        ),
        within_s=6.0,
    ),
    Check(
        "wire-shows-only-egress-ip",
        "on the wire outside there is the egress IP and nothing else",
        wire_shows_only_egress_ip,
        (
            "Look at the addresses in the capture: lab.capture() collects the sources it saw.",
            "A node's address there belongs to a pod that the policy does not select, or to another destination.",
            "Send the requests inside the `with lab.capture()` block, after the policy's entries are on every node.",
        ),
    ),
)
