"""Checks of the boundary: what the firewall outside lets in, and what a capture on the wire shows."""

from __future__ import annotations

from collections.abc import Sequence

from egresslab.lab import probes
from egresslab.lab.capture import Capture
from egresslab.lab.checks.addresses import missing, wanted
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome
from egresslab.lab.firewall import Contact
from egresslab.lab.probes import OUTSIDE_URL, Answer


def outside_admits(bench: Bench, pod: str | Sequence[str], url: str = OUTSIDE_URL) -> Finding:
    """Each pod gets an answer, with an allow-list in force, and the firewall's log has it as admitted."""
    if bench.firewall.allowed() is None:
        return _no_list()
    names = [pod] if isinstance(pod, str) else list(pod)
    outcomes = [(name, *_knock(bench, name, url)) for name in names]
    passed = all(answer.address is not None and contact is not None for _, answer, contact in outcomes)
    return Finding(
        Outcome.PASS if passed else Outcome.FAIL,
        "an answer for every pod, and `admitted` in the firewall's log",
        "; ".join(_seen(bench, *outcome, admitted=True) for outcome in outcomes),
        probes.typed(names[0], bench.current_namespace, url),
    )


def outside_refuses(bench: Bench, pod: str, url: str = OUTSIDE_URL) -> Finding:
    """The pod gets no answer, and the firewall's log has its node's address as refused."""
    if bench.firewall.allowed() is None:
        return _no_list()
    answer, contact = _knock(bench, pod, url, admitted=False)
    refused = answer.address is None and contact is not None
    return Finding(
        Outcome.PASS if refused else Outcome.FAIL,
        "no answer, and `refused` in the firewall's log",
        _seen(bench, pod, answer, contact, admitted=False),
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


def _knock(bench: Bench, pod: str, url: str, *, admitted: bool = True) -> tuple[Answer, Contact | None]:
    """One request, and what the firewall logged of it with that outcome, from an address of the cluster."""
    before = set(bench.firewall.log())
    answer = bench.reach(pod, url)
    fresh = [contact for contact in bench.firewall.log() if contact not in before and contact.admitted is admitted]
    if answer.address is not None:
        fresh = [contact for contact in fresh if contact.source == answer.address]
    return answer, fresh[-1] if fresh else None


def _seen(bench: Bench, pod: str, answer: Answer, contact: Contact | None, *, admitted: bool) -> str:
    word = "admitted" if admitted else "refused"
    logged = f"log: {word} {contact.source}" if contact else f"log: nothing {word}"
    return f"{pod} on {bench.pod(pod).node}: {answer}; {logged}"


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
        within_s=15.0,
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
        within_s=15.0,
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
