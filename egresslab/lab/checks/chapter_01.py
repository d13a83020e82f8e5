"""Checks of chapter 01: a list that lets the application in wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence

from egresslab.lab.checks import boundary
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome

ONE_ADDRESS = 1


def admit_everywhere(bench: Bench, pods: Sequence[str], url: str) -> Finding:
    """Every pod is admitted by the list; a list with one address is still the one that the chapter made."""
    found = boundary.outside_admits(bench, pods, url)
    listed = bench.firewall.allowed()
    if found.outcome is Outcome.FAIL and listed is not None and sum(n.num_addresses for n in listed) == ONE_ADDRESS:
        return Finding(Outcome.NOT_ATTEMPTED, found.expected, f"the list names {listed[0]} only", found.command)
    return found


CHECKS = (
    Check(
        "admit-everywhere",
        "the allow-list admits the application on every node",
        admit_everywhere,
        (
            "Find out which address each of the clients leaves with, and which of them the allow-list names.",
            "Each client leaves with the address of its own node; every one of these has to be covered by the list.",
            "Write the three addresses of `kubectl get nodes -o wide`, or the network that they share: "
            '["192.168.60.0/24"].',
        ),
        within_s=6.0,
    ),
)
