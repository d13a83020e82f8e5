"""Checks that nothing happens: no answer, no packet outside, no address on any node."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from egresslab.lab import probes
from egresslab.lab.capture import Capture
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome


def nothing_leaves(bench: Bench, pod: str | Sequence[str], url: str, capture: Capture | None = None) -> Finding:
    """No pod has an answer from `url`, and a capture outside, where one was made, has seen no packet."""
    pods = [pod] if isinstance(pod, str) else list(pod)
    answers = {name: bench.reach(name, url) for name in pods}
    seen = dict(capture.sources) if capture is not None else {}
    quiet = not seen and all(answer.address is None for answer in answers.values())
    wire = ", ".join(f"{address} ({count} packets)" for address, count in seen.items()) or "no packet"
    return Finding(
        Outcome.PASS if quiet else Outcome.FAIL,
        "no answer for any pod" + (", and no packet on the wire outside" if capture is not None else ""),
        "; ".join(f"{name}: {answer}" for name, answer in answers.items())
        + (f"; wire: {wire}" if capture is not None else ""),
        capture.typed if capture is not None else probes.typed(pods[0], bench.current_namespace, url),
    )


def address_is_nowhere(bench: Bench, address: str) -> Finding:
    """No node carries the address on any interface."""
    wanted = ipaddress.ip_address(address)
    carriers = [
        f"{node.name} ({name})"
        for node in bench.nodes
        for name, carried in node.interfaces.items()
        if wanted in [entry.ip for entry in carried]
    ]
    return Finding(
        Outcome.FAIL if carriers else Outcome.PASS,
        f"no node carries {wanted}",
        ", ".join(carriers) or "none does",
        "kubectl get nodes -o jsonpath='{..egresslab\\.dev/interfaces}'",
    )


CHECKS = (
    Check(
        "nothing-leaves",
        "what cannot leave as it should does not leave at all",
        nothing_leaves,
        (
            "Ask from the pod, and look on the wire outside.",
            "An answer means that no policy selects the packet: it left with its node's address.",
            "`egresslab policy explain NAMESPACE/POD ADDRESS` names the policy, or says that there is none.",
        ),
        within_s=12.0,
    ),
    Check(
        "address-is-nowhere",
        "no node carries the address",
        address_is_nowhere,
        (
            "Look at the addresses that the nodes report.",
            "Whoever added it is still there, or ended without taking it away.",
            "Delete the Deployment egress-ip-assign and wait for its pod to be gone: its preStop hook removes it.",
        ),
    ),
)
