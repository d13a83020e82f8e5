"""Check of chapter 15: every application leaves as it should, graded by packets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from egresslab.lab import probes
from egresslab.lab.capture import Capture
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome


def graded(bench: Bench, expected: Mapping[str, str], url: str) -> Finding:
    """The outside sees every pod as the address noted for it; says which do not, and never why."""
    seen = {pod: bench.reach(pod, url).address for pod in expected}
    wrong = [pod for pod, address in expected.items() if str(seen[pod]) != address]
    return Finding(
        Outcome.FAIL if wrong else Outcome.PASS,
        ", ".join(f"{pod} as {address}" for pod, address in expected.items()),
        f"{len(expected) - len(wrong)} of {len(expected)} right"
        + "".join(f"; {pod} as {seen[pod] or 'nobody: no answer'}" for pod in wrong),
        probes.typed(wrong[0] if wrong else next(iter(expected)), bench.current_namespace, url),
    )


def only_these(bench: Bench, capture: Capture, addresses: Sequence[str]) -> Finding:
    """A capture outside has seen each of the addresses, and no other."""
    seen = {str(address): count for address, count in capture.sources.items()}
    outcome = Outcome.PASS if set(seen) == set(addresses) else Outcome.FAIL
    return Finding(
        outcome if seen else Outcome.NOT_ATTEMPTED,
        " and ".join(addresses) + ", and no other",
        ", ".join(f"{address} ({count} packets)" for address, count in seen.items()) or "no packet",
        capture.typed,
    )


CHECKS = (
    Check(
        "only-these-outside",
        "on the wire there are the gateways' addresses and no others",
        only_these,
        (
            "Look at the addresses in the capture.",
            "A node's address belongs to an application that no policy selects.",
            "An address that is missing belongs to an application that gets no answer.",
        ),
    ),
    Check(
        "put-it-right",
        "every application leaves as it should",
        graded,
        (
            "The path of chapter 11: what is seen outside, who decides, what the kernel holds, what events say.",
            "`egresslab policy explain NAMESPACE/POD 203.0.113.10` for each one that is wrong; read why policies lost.",
            "Compare a policy that works with one that does not, line by line: they are made after one pattern.",
        ),
        within_s=12.0,
    ),
)
