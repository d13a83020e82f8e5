"""Checks of chapter 09: which way packets go out and come back, as captures on a node show it."""

from __future__ import annotations

import re

from egresslab.lab import tunnel
from egresslab.lab.capture import Capture
from egresslab.lab.checks.addresses import source_is_address
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome

BEGINNING = re.compile(r"(?P<client>\S+) > \S+: Flags \[S\]")
RECEIVER = re.compile(r" > (?P<receiver>\S+): ")


def ways(bench: Bench, capture: Capture, out: str, back: str) -> Finding:
    """The capture has packets that went `out` and came `back` so: interface and direction, as tcpdump says them, and
    `wrapped` after them for what was inside a packet of the datapath's tunnel."""
    seen = list(dict.fromkeys(_way(line) for line in capture.lines))
    outcome = Outcome.PASS if out in seen and back in seen else Outcome.FAIL
    if not capture.lines:
        outcome = Outcome.NOT_ATTEMPTED
    return Finding(outcome, f"{out} and {back}", ", ".join(seen) or "no packet", capture.typed)


def symmetric(bench: Bench, capture: Capture, out: str, back: str) -> Finding:
    """As `ways`, and no packet came in any other way than `back`, but over the pod's own link or out of the tunnel's
    device, which has unwrapped it. A server repeats its answers to an earlier trial for half a minute: only connections
    that began while the capture ran count."""
    finding = ways(bench, capture, out, back)
    begun = {match["client"] for line in capture.lines for match in BEGINNING.finditer(line)}
    others = [line for line in capture.lines if " In" in _way(line) and _way(line) != back]
    strays = [
        line for line in others if not _way(line).startswith(("veth", "egress_vxlan")) and _receiver(line) in begun
    ]
    if finding.outcome is Outcome.PASS and strays:
        return Finding(Outcome.FAIL, finding.expected + ", nothing else", strays[0], finding.command)
    return finding


def asked_but_unanswered(bench: Bench, pod: str, url: str, capture: Capture) -> Finding:
    """Outside both the question and the server's answer were seen, and the pod has no answer."""
    server = url.split("/")[2]
    asked = any(str(source) != server for source in capture.sources)
    answered = any(str(source) == server for source in capture.sources)
    answer = bench.reach(pod, url)
    return Finding(
        Outcome.PASS if asked and answered and answer.address is None else Outcome.FAIL,
        "packets of both sides outside, no answer in the pod",
        f"outside: {capture}; pod: {answer}",
        capture.typed,
    )


def _receiver(line: str) -> str | None:
    """Address and port that the packet in front is for."""
    found = RECEIVER.search(line)
    return found["receiver"] if found else None


def _way(line: str) -> str:
    """Interface and direction. tcpdump(1) has other words than In for what was addressed to another MAC, or to many."""
    interface, direction = line.split()[:2]
    return f"{interface} {'Out' if direction == 'Out' else 'In'}{' wrapped' if tunnel.read(line) else ''}"


CHECKS = (
    Check(
        "asymmetric-return",
        "out one way, back another",
        ways,
        (
            "Look at the first two words of each line: interface and direction.",
            "The request leaves through the tunnel; find the reply.",
            "`hand Out` and `eth0 In` must both be there: if not, the client has not asked while the capture ran.",
        ),
    ),
    Check(
        "symmetric-return",
        "out and back the same way",
        symmetric,
        (
            "Look at interface and direction of each packet, and at whether it has another one inside.",
            "The datapath's tunnel is UDP to port 8472 between the two nodes; the capture must let that through.",
            "`eth0 Out wrapped` and `eth0 In wrapped`: the gateway sends the reply where the request came from.",
        ),
    ),
    Check(
        "asked-but-unanswered",
        "the server answers, and the client hears nothing",
        asked_but_unanswered,
        (
            "Look at both ends: at the server, and in the pod.",
            "Outside there are packets in both directions, so the request arrived and was answered.",
            "The filter must be on: `sysctl net.ipv4.conf.eth0.rp_filter` on the client's node.",
        ),
        within_s=12.0,
    ),
    Check(
        "across",
        "another node is the gateway, and the reply passes the strict filter",
        source_is_address,
        (
            "The per-node policies select the label `node`; your policy may select another label of the pod.",
            "A longer prefix wins: 192.168.60.13/32 against 0.0.0.0/0.",
            "podSelector app=client of this namespace, kubernetes.io/hostname: lab-worker2, egressIP: 192.168.60.12.",
        ),
        within_s=8.0,
    ),
)
