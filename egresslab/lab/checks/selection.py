"""Checks of who is selected: some pods leave with an address, and some others must not."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from egresslab.lab import probes
from egresslab.lab.checks.model import Bench, Finding, Outcome


def selected_and_no_others(
    bench: Bench, selected: Sequence[str], others: Sequence[str], address: str, url: str
) -> Finding:
    """Every pod of `selected` is seen as `address` at `url`, and no pod of `others` is."""
    wish = ipaddress.ip_address(address)
    seen = {pod: bench.reach(pod, url).address for pod in (*selected, *others)}
    missing = [pod for pod in selected if seen[pod] != wish]
    too_many = [pod for pod in others if seen[pod] == wish]
    outcome = Outcome.FAIL if missing or too_many else Outcome.PASS
    if missing and len(missing) == len(selected) and not too_many:
        outcome = Outcome.NOT_ATTEMPTED
    return Finding(
        outcome,
        f"{wish} for {', '.join(selected)}; another address for {', '.join(others)}",
        ", ".join(f"{pod}: {found or 'no answer'}" for pod, found in seen.items()),
        probes.typed((missing or too_many or list(selected))[0], bench.current_namespace, url),
    )
