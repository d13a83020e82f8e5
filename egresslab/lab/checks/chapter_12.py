"""Checks of chapter 12: both families of one pod."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from egresslab.lab import probes
from egresslab.lab.checks.addresses import family
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome


def two_families(bench: Bench, pod: str, addresses: Mapping[str, str]) -> Finding:
    """At each URL the pod is seen as the address noted for it."""
    seen = {url: bench.reach(pod, url).address for url in addresses}
    wrong = [url for url, address in addresses.items() if seen[url] != ipaddress.ip_address(address)]
    return Finding(
        Outcome.FAIL if wrong else Outcome.PASS,
        ", ".join(f"{address} over IPv{family(url)}" for url, address in addresses.items()),
        ", ".join(f"{address or 'no answer'} over IPv{family(url)}" for url, address in seen.items()),
        probes.typed(pod, bench.current_namespace, wrong[0] if wrong else next(iter(addresses))),
    )


CHECKS = (
    Check(
        "two-families",
        "each family leaves through its own gateway",
        two_families,
        (
            "One policy has one gateway; so each family needs a policy of its own.",
            "destinationCIDRs decides which family a policy is about.",
            'The policy "dual" keeps "0.0.0.0/0" alone; a second one has "::/0", node=other_gateway, interface="eth1".',
        ),
        within_s=8.0,
    ),
)
