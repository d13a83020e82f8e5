"""Checks of chapter 08: planned moves, and who is active by the kernel's own word."""

from __future__ import annotations

from egresslab.lab.checks.model import Bench, Check, Finding, Outcome
from egresslab.lab.drills.result import DrillResult

EXTRA_MS = 50.0
"""What a planned move may add to the gap of traffic that takes no gateway."""


def active_in_the_kernel(bench: Bench, node: str, pod: str) -> Finding:
    """On every node the pod's rows name this node as the gateway, and it alone shows an egress IP."""
    chosen = next(known for known in bench.nodes if known.name == node)
    address, own = chosen.address(4), bench.pod(pod).addresses[0]
    rows = [row for row in bench.map_entries() if row.source == own]
    gateways = {str(row.gateway) for row in rows}
    showing = {row.node for row in rows if int(row.egress)}
    right = gateways == {str(address)} and showing == {node}
    return Finding(
        Outcome.PASS if right else Outcome.FAIL,
        f"gateway {address} on every node, the egress IP shown on {node} alone",
        f"gateway {', '.join(sorted(gateways)) or 'none'}; egress IP on {', '.join(sorted(showing)) or 'none'}",
        "egresslab bpf egress list",
    )


def nothing_lost(bench: Bench, drill: DrillResult, address: str) -> Finding:
    """Every connection kept, one address, and no gap beyond what traffic without a gateway felt."""
    seen = drill.measured
    kept, lost = seen.connections.kept, seen.connections.lost
    sources = [str(source.address) for source in seen.sources]
    unnoticed = seen.gap_ms <= seen.control.gap_ms + EXTRA_MS * drill.patience
    good = not lost and sources == [address] and unnoticed and not seen.strangers
    return Finding(
        Outcome.PASS if good else Outcome.FAIL,
        f"all connections kept, {address} alone, no gap beyond that without a gateway",
        f"{kept} kept, {lost} lost; seen as {', '.join(sources)}; a gap of {seen.gap_ms:.0f} ms, "
        f"without a gateway {seen.control.gap_ms:.0f} ms",
    )


CHECKS = (
    Check(
        "active-in-the-kernel",
        "every node's kernel names the active gateway",
        active_in_the_kernel,
        (
            "Look at the gateway column of the map, on any node.",
            "Compare it with the INTERNAL-IP of the node that you expect.",
            "kubectl describe egressgateways.egresslab.dev my-egressgw says why a candidate is not eligible.",
        ),
        within_s=15.0,
    ),
    Check(
        "nothing-lost",
        "a planned move loses nothing",
        nothing_lost,
        (
            "Read the table of the drill: kept, gap, and the gap without a gateway.",
            "A busy machine delays all traffic: that shows in the gap without a gateway as well.",
            "If connections were lost, was the standby ready when the label was taken away?",
        ),
    ),
    Check(
        "failback",
        "the preferred node is active again, and nobody had to leave",
        active_in_the_kernel,
        (
            "A field of the gateway's spec says what happens when a better node is there.",
            "kubectl explain egressgateways.egresslab.dev.spec.failback",
            "kubectl patch egressgateways.egresslab.dev my-egressgw --type=merge "
            '-p \'{"spec": {"failback": {"policy": "Immediate"}}}\'',
        ),
        within_s=15.0,
    ),
)
