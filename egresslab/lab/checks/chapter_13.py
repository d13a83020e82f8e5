"""Checks of chapter 13: packets through a machine of another site."""

from __future__ import annotations

from egresslab.lab import probes, tunnel
from egresslab.lab.capture import Capture
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome


def wrapped_then_translated(bench: Bench, capture: Capture, address: str) -> Finding:
    """On the gateway, tunnel packets (VXLAN) came in and packets with the egress address went out."""
    wrapped = [line for line in capture.lines if tunnel.read(line)]
    leaving = [line for line in capture.lines if f" {address}." in line and " Out " in line and line not in wrapped]
    seen = f"{len(wrapped)} wrapped, {len(leaving)} leaving as {address}"
    return Finding(
        Outcome.PASS if wrapped and leaving else Outcome.FAIL if capture.lines else Outcome.NOT_ATTEMPTED,
        f"wrapped packets from a node, and packets that leave as {address}",
        seen if capture.lines else "no packet",
        capture.typed,
    )


def near(bench: Bench, pod: str, near: str, far: str, address: str) -> Finding:
    """At `near` the pod is seen as its own node, at `far` as the gateway."""
    runs = bench.pod(pod)
    own = next(node.address(4) for node in bench.nodes if node.name == runs.node)
    beside, away = bench.reach(pod, near), bench.reach(pod, far)
    right = beside.address == own and str(away.address) == address
    return Finding(
        Outcome.PASS if right else Outcome.FAIL,
        f"{own} near by, {address} elsewhere",
        f"{beside} near by, {away} elsewhere",
        probes.typed(pod, bench.current_namespace, near if beside.address != own else far),
    )


CHECKS = (
    Check(
        "wrapped-then-translated",
        "the gateway gets wrapped packets and sends translated ones",
        wrapped_then_translated,
        (
            "Read the lines of the capture: who talks to whom?",
            "Port 8472 is the tunnel; the other packets are what comes out of it.",
            "Make the request inside the `with` block; the pod must be selected by the policy.",
        ),
    ),
    Check(
        "near",
        "near traffic stays near, the rest leaves through the other site",
        near,
        (
            "A hole in a policy is what excludedCIDRs makes.",
            "The hole is the network of the nodes, 192.168.60.0/24.",
            "kubectl patch ciliumegressgatewaypolicy egress-test --type=merge "
            '-p \'{"spec": {"excludedCIDRs": ["192.168.60.0/24"]}}\'',
        ),
        within_s=8.0,
    ),
)
