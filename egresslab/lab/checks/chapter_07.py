"""Checks of chapter 07: what a failover did to connections, by what a drill has measured."""

from __future__ import annotations

from egresslab.lab.checks.addresses import source_is_address
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome
from egresslab.lab.drills.result import DrillResult

GAP_MS = 1000.0


def connections_lost(bench: Bench, drill: DrillResult) -> Finding:
    """No connection outlived the gateway, and no packet left as somebody else."""
    seen = drill.measured
    leaked = bool(seen.strangers)
    good = not seen.connections.kept and not leaked
    return Finding(
        Outcome.PASS if good else Outcome.FAIL,
        "no connection kept, no packet with another address",
        f"{seen.connections.kept} of {_all(drill)} kept; other addresses: {_strangers(drill)}",
    )


def connections_kept(bench: Bench, drill: DrillResult, address: str) -> Finding:
    """Every connection went on, from one address, with a gap below a second, and no packet left as somebody else."""
    seen = drill.measured
    sources = [str(source.address) for source in seen.sources]
    total = _all(drill)
    allowed_ms = GAP_MS * drill.patience
    good = seen.connections.kept == total and sources == [address] and seen.gap_ms < allowed_ms and not seen.strangers
    return Finding(
        Outcome.PASS if good else Outcome.FAIL,
        f"all {total} connections kept, seen as {address} alone, a gap below {allowed_ms / 1000:g} s",
        f"{seen.connections.kept} kept, seen as {', '.join(sources)}, a gap of {seen.gap_ms:.0f} ms; "
        f"other addresses: {_strangers(drill)}",
    )


def connections_reset(bench: Bench, drill: DrillResult) -> Finding:
    """Every connection was reset rather than left hanging, and two addresses were seen."""
    seen = drill.measured
    good = not seen.connections.silent and len(seen.sources) == 2 and not seen.strangers
    return Finding(
        Outcome.PASS if good else Outcome.FAIL,
        "each connection reset, none left hanging; two addresses, one after the other",
        f"{seen.connections.reset} reset, {seen.connections.silent} left hanging; seen as "
        f"{', '.join(str(source.address) for source in seen.sources)}; a gap of {seen.gap_ms:.0f} ms",
    )


def _all(drill: DrillResult) -> int:
    found = drill.measured.connections
    return found.kept + found.lost


def _strangers(drill: DrillResult) -> str:
    return ", ".join(f"{address} ({count})" for address, count in (drill.measured.strangers or {}).items()) or "none"


CHECKS = (
    Check(
        "connections-lost",
        "without a standby the connections end with the gateway",
        connections_lost,
        (
            "Read the table of the drill: kept, reset, silent.",
            "A plain policy has no second gateway; the packets are dropped.",
            "If connections were kept, the node came back too soon: run the drill again.",
        ),
    ),
    Check(
        "connections-kept",
        "the connections outlive their gateway",
        connections_kept,
        (
            "Read the table of the drill: kept, gap, sources.",
            "A gap of more than a second: the machine is very busy, or the voters are not there.",
            "kubectl -n kube-system exec ds/egresslab-agent -c voter -- python -m egresslab.voter --status",
        ),
    ),
    Check(
        "connections-reset",
        "connections that cannot go on are told so at once",
        connections_reset,
        (
            "Read the table of the drill: reset, silent.",
            "A connection from another address is a stranger to the server.",
            "Silent ones mean that nobody answered what the pods sent: is the second gateway active?",
        ),
    ),
    Check(
        "own-gateway",
        "the learner's gateway gives its virtual IP",
        source_is_address,
        (
            "Two objects: a gateway, and a policy that names it.",
            "nodeSelector.matchLabels, source.virtualIPs, source.announceInterfaces; in the policy egressGatewayName.",
            "Compare with the manifest of my-egressgw, part by part; the selector is app=mine, of this namespace.",
        ),
        within_s=10.0,
    ),
)
