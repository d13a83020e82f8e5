"""Checks of chapter 05: a packet at each hop, ports that are never shared, a drop and its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping

from egresslab.lab.capture import Capture
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome

TUNNEL = "egress_vxlan"


def hop_by_hop(bench: Bench, home: Capture, gateway: Capture, pod: str, egress: str) -> Finding:
    """At home the pod's packets leave through the tunnel only; on the gateway they leave with the egress address."""
    stray = [line for line in home.lines if line.startswith("eth") and f" {pod}." in line]
    tunnelled = [line for line in home.lines if line.startswith(TUNNEL) and f" {pod}." in line]
    leaving = [line for line in gateway.lines if " Out " in line and f" {egress}." in line]
    naked = [line for line in gateway.lines if line.startswith("eth") and f" {pod}." in line]
    good = bool(tunnelled and leaving) and not stray and not naked
    seen = f"{len(tunnelled)} in the tunnel at home, {len(leaving)} leaving the gateway as {egress}"
    if stray or naked:
        seen += f"; with the pod's address on an interface: {(stray + naked)[0]}"
    return Finding(
        Outcome.PASS if good else Outcome.FAIL if home.lines or gateway.lines else Outcome.NOT_ATTEMPTED,
        f"{pod} in the tunnel, {egress} on the wire, and {pod} on no interface that leads out",
        seen,
        gateway.typed,
    )


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
            "At home the packet must be in the tunnel (egress_vxlan), on the gateway it leaves by eth1.",
            "Make the request inside the `with` block, and let the pod be selected by the policy.",
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
