"""Checks of chapter 06: pods spread over gateways, and who moves when the list changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from egresslab.lab import probes
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome

IN_A_ROW = 10


def spread_over_gateways(bench: Bench, pods: Sequence[str], addresses: Sequence[str], url: str) -> Finding:
    """Every pod is seen as one of the addresses, and not all of them as the same one."""
    seen = _seen(bench, pods, url)
    strangers = {pod: address for pod, address in seen.items() if address not in addresses}
    used = set(seen.values())
    return Finding(
        Outcome.PASS if not strangers and len(used) > 1 else Outcome.FAIL,
        f"each of {len(pods)} pods as one of {', '.join(addresses)}, more than one of them in use",
        _counted(seen) + (f"; not a gateway's: {_pairs(strangers)}" if strangers else ""),
        probes.typed(pods[0], bench.current_namespace, url),
    )


def keeps_its_gateway(bench: Bench, pod: str, address: str, url: str) -> Finding:
    """Ten connections of one pod, one after another, all seen as the address that it had before."""
    answers = [str(bench.reach(pod, url).address) for _ in range(IN_A_ROW)]
    same = answers.count(address)
    return Finding(
        Outcome.PASS if same == IN_A_ROW else Outcome.FAIL,
        f"{IN_A_ROW} answers, all seeing {address}",
        f"{same} of {IN_A_ROW} see {address}",
        probes.typed(pod, bench.current_namespace, url),
    )


def only_those_moved(bench: Bench, before: Mapping[str, str], gone: Sequence[str], url: str) -> Finding:
    """Pods that were seen as one of `gone` are seen as somebody else, and all the others as before."""
    now = _seen(bench, list(before), url)
    stayed = [pod for pod, address in before.items() if address in gone and now[pod] in (address, "None")]
    needless = {pod: now[pod] for pod, address in before.items() if address not in gone and now[pod] != address}
    had_to = sum(address in gone for address in before.values())
    moved = sum(now[pod] != address for pod, address in before.items())
    return Finding(
        Outcome.FAIL if stayed or needless else Outcome.PASS,
        f"the {had_to} pods of {', '.join(gone)} move, the other {len(before) - had_to} stay",
        f"{moved} moved"
        + (f"; still without a gateway: {', '.join(stayed)}" if stayed else "")
        + (f"; needlessly: {_pairs(needless)}" if needless else ""),
        probes.typed(next(iter(before)), bench.current_namespace, url),
    )


def seen_as(bench: Bench, expected: Mapping[str, str], url: str) -> Finding:
    """Every pod is seen as the address noted for it."""
    now = _seen(bench, list(expected), url)
    other = {pod: now[pod] for pod, address in expected.items() if now[pod] != address}
    return Finding(
        Outcome.FAIL if other else Outcome.PASS,
        f"all {len(expected)} pods as noted: {_counted(expected)}",
        f"otherwise: {_pairs(other)}" if other else "so they are",
        probes.typed(next(iter(expected)), bench.current_namespace, url),
    )


def who_moves(bench: Bench, answer: Sequence[str] | None, before: Mapping[str, str], address: str) -> Finding:
    """The learner names the pods that were seen as the address of the gateway that comes back."""
    if answer is None:
        return Finding(Outcome.NOT_ATTEMPTED, "a list of pods", "no answer yet")
    wanted = {pod for pod, seen in before.items() if seen == address}
    missing, needless = wanted - set(answer), set(answer) - wanted
    return Finding(
        Outcome.FAIL if missing or needless else Outcome.PASS,
        f"the {len(wanted)} pods that were seen as {address} when all gateways were there",
        "; ".join(
            f"{word}: {', '.join(sorted(pods))}"
            for word, pods in (("missing", missing), ("too many", needless))
            if pods
        )
        or "exactly those",
    )


def _seen(bench: Bench, pods: Sequence[str], url: str) -> dict[str, str]:
    return {pod: str(bench.reach(pod, url).address) for pod in pods}


def _pairs(seen: Mapping[str, str]) -> str:
    return ", ".join(f"{pod} as {address}" for pod, address in seen.items())


def _counted(seen: Mapping[str, str]) -> str:
    addresses = list(seen.values())
    return ", ".join(f"{addresses.count(address)} as {address}" for address in sorted(set(addresses)))


CHECKS = (
    Check(
        "spread-over-gateways",
        "every pod leaves through one of the gateways, and they share the work",
        spread_over_gateways,
        (
            "Look at the address that each pod is seen with.",
            "Compare them with the egress IPs in the policy's list.",
            "An address of none of them: `egresslab policy explain NAMESPACE/POD ADDRESS` says which policy decided.",
        ),
        within_s=15.0,
    ),
    Check(
        "keeps-its-gateway",
        "a pod keeps its gateway",
        keeps_its_gateway,
        (
            "Ask several times from the same pod.",
            "A gateway is computed from the pod and the list; as long as both stay, so does the gateway.",
            "Another address means that the list or the nodes behind it have changed: apply the policy again.",
        ),
    ),
    Check(
        "only-those-moved",
        "only pods of the gateway that went have moved",
        only_those_moved,
        (
            "Compare the addresses before and after, pod by pod.",
            "With rendezvous hashing, a pod moves only if the gateway that went was its own.",
            "A Deployment that made new pods makes the comparison void: `kubectl get pods` must show the same names.",
        ),
        within_s=15.0,
    ),
    Check(
        "seen-as",
        "every pod has the address again that it had",
        seen_as,
        (
            "Compare the addresses with those noted, pod by pod.",
            "A pod's choice depends on nothing but the pod and the nodes of the group.",
            "All three nodes must be in the group again: `kubectl get egressgateway three -o yaml`.",
        ),
        within_s=15.0,
    ),
    Check(
        "who-moves",
        "who will move is known beforehand",
        who_moves,
        (
            "A pod moves to the gateway that comes back only if it prefers it to both others.",
            "Which pods preferred it is known: when all three were there, they were seen as its address.",
            '[pod for pod in before if before[pod] == "192.168.60.12"].',
        ),
    ),
)
