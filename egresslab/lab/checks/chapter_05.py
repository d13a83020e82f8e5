"""Checks of chapter 05: a packet at each hop, ports that are never shared, a drop and its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping

from egresslab.lab import tunnel
from egresslab.lab.capture import Capture
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome


def hop_by_hop(bench: Bench, home: Capture, gateway: Capture, pod: str, egress: str) -> Finding:
    """Between the nodes the pod's packets travel wrapped, both ways; beyond the gateway with the egress address."""
    there = [packet for packet in map(tunnel.read, home.lines) if packet and packet.out and packet.carries_from(pod)]
    back = [packet for packet in map(tunnel.read, home.lines) if packet and not packet.out and packet.carries_to(pod)]
    arriving = [packet for packet in map(tunnel.read, gateway.lines) if packet and not packet.out]
    ways = {(packet.source, packet.target, packet.vni) for packet in there}
    same_way = {(packet.target, packet.source, packet.vni) for packet in back} == ways
    both_ends = {(packet.source, packet.target, packet.vni) for packet in arriving if packet.carries_from(pod)} == ways
    leaving = [line for line in gateway.lines if " Out " in line and f" {egress}." in line]
    stray = [line for line in (*home.lines, *gateway.lines) if _naked(line, pod)]
    good = bool(ways and leaving) and same_way and both_ends and not stray
    seen = ", ".join(f"{source} > {target} (VNI {vni})" for source, target, vni in sorted(ways, key=str))
    seen = f"{len(there)} wrapped at home: {seen or 'none'}; {len(back)} back; {len(leaving)} leaving as {egress}"
    if stray:
        seen += f"; with the pod's address on an interface: {stray[0]}"
    return Finding(
        Outcome.PASS if good else Outcome.FAIL if home.lines or gateway.lines else Outcome.NOT_ATTEMPTED,
        f"{pod} wrapped between the nodes, both ways; {egress} from the gateway on; never {pod} bare on eth0 or eth1",
        seen,
        gateway.typed,
    )


def _naked(line: str, pod: str) -> bool:
    """Whether a packet bears the pod's address on an interface that leads out, with nothing around it."""
    return line.startswith("eth") and tunnel.read(line) is None and f" {pod}." in line.partition("\n")[0]


def never_the_same_port(bench: Bench, answers: Mapping[str, str]) -> Finding:
    """Answers (JSON with address and port) that pods got which used one source port: no two saw the same pair."""
    seen: dict[str, str] = {}
    for pod, text in answers.items():
        try:
            answer = json.loads(text)
            seen[pod] = f"{answer['address']} {answer['port']}"
        except (ValueError, KeyError):
            seen[pod] = "no answer"
    good = "no answer" not in seen.values() and len(set(seen.values())) == len(seen)
    return Finding(
        Outcome.PASS if good else Outcome.FAIL,
        "an address and a port for each pod, no two alike",
        ", ".join(f"{pod}: {pair}" for pod, pair in seen.items()),
    )


def which_program(bench: Bench, answer: tuple[str, str] | None, counters: str) -> Finding:
    """The learner names the program and the reason of a line of the counters that was dropped for a wrong source."""
    if answer is None:
        return Finding(Outcome.NOT_ATTEMPTED, "a program and a reason", "no answer yet")
    rows = [line.split() for line in counters.splitlines()]
    dropped = {(row[0], row[1]) for row in rows if len(row) > 2 and row[2] == "True" and "SOURCE" in row[1]}
    return Finding(
        Outcome.PASS if tuple(answer) in dropped else Outcome.FAIL,
        "a line of the counters that was dropped for its source address",
        " ".join(answer),
        "egresslab-dbg bpf counters list",
    )


CHECKS = (
    Check(
        "hop-by-hop",
        "in the tunnel it is the pod, on the wire it is the egress IP",
        hop_by_hop,
        (
            "Read the lines of both captures: interface, direction, source.",
            "At home: on the pod's link as it is, on eth0 inside another one. On the gateway it leaves by eth1.",
            "Make the request inside the `with` block; the expression must let `udp port 8472` through.",
        ),
    ),
    Check(
        "never-the-same-port",
        "two flows never have one address and port towards one server",
        never_the_same_port,
        (
            "Ask with --local-port from both pods, and compare what the server saw.",
            "The first to come keeps its port; the second is given another.",
            "List the flow table on the gateway: each REPLY row is there once.",
        ),
    ),
    Check(
        "which-program",
        "the drop has been found",
        which_program,
        (
            "Look for lines whose third column says True: those were dropped.",
            "The packet came from a pod of this node: which program sees it first?",
            "from_pod, and a reason that speaks of the source.",
        ),
    ),
)
