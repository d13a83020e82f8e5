"""Checks of chapter 11: patients mended, and two that were healthy."""

from __future__ import annotations

from egresslab.lab.checks.addresses import source_is_address
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome


def answer_is(bench: Bench, answer: str, address: str) -> Finding:
    """What a server outside answered to a request that the chapter made earlier."""
    return Finding(
        Outcome.PASS if answer.strip() == address else Outcome.FAIL,
        f"the answer {address}",
        answer.strip() or "nothing",
    )


def _patient(number: str, hints: tuple[str, str, str]) -> Check:
    return Check(f"{number}-patient", f"the {number} patient leaves as it should", source_is_address, hints, 8.0)


CHECKS = (
    _patient(
        "first",
        (
            "Which policies were considered, and why did they lose? `egresslab policy explain` says it.",
            "kubectl get pod billing --show-labels; kubectl get ciliumegressgatewaypolicy billing -o yaml",
            "The policy selects app=biling. Apply it with app: billing.",
        ),
    ),
    _patient(
        "second",
        (
            "`Not Found` is about the gateway, not about the pod.",
            "kubectl get nodes -L egress-gateway, and the policy's nodeSelector",
            'The node has egress-gateway=true, the policy wants "yes". lab.label_node(...), or change the policy.',
        ),
    ),
    _patient(
        "third",
        (
            "Zeros on the gateway: the address that the policy asks for is on none of its interfaces.",
            "Compare the policy's egressIP with the addresses of its gateway.",
            "lab-worker3 has 172.18.18.14 on eth1: write that, or `interface: eth1` instead of egressIP.",
        ),
    ),
    _patient(
        "fourth",
        (
            "The event names what the gateway lacks.",
            "Compare the policy's interface with the interfaces of its gateway.",
            "There is no eth2: `interface: eth1`.",
        ),
    ),
    _patient(
        "fifth",
        (
            "Between the wire that you have captured and the server there is somebody else.",
            "kubectl -n outside get configmap firewall -o yaml",
            "kubectl -n outside delete configmap firewall",
        ),
    ),
    Check(
        "first-act",
        "the first packet of a pod's life has the egress IP",
        answer_is,
        (
            "The answer is in the pod's log.",
            "Another address would mean that the pod ran before its entries were in the kernel.",
            "Is the policy `billing` mended? The pod has the same label.",
        ),
    ),
    Check(
        "large-request",
        "a request larger than the tunnel's packets arrives",
        answer_is,
        (
            "The request had a header of 5,000 bytes.",
            "If small requests work and this one does not, somebody is not told how large a packet may be.",
            "Is the policy `billing` mended? The same pod asks.",
        ),
    ),
)
