"""Checks of chapter 00: the lab works, and the learner has run a pod of their own."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from egresslab.api.connection import ApiError
from egresslab.lab import probes
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome

NOT_FOUND = 404


def lab_is_ready(bench: Bench, pod: str, urls: Sequence[str]) -> Finding:
    """Every node is Ready, and the pod gets an answer from each of the servers outside."""
    waiting = [node.name for node in bench.nodes if not node.ready]
    answers = {url: bench.reach(pod, url) for url in urls}
    silent = [f"{url}: {answer}" for url, answer in answers.items() if answer.address is None]
    seen = ", ".join(f"{url} answers {answer.address}" for url, answer in answers.items() if answer.address)
    wrong = [*(f"{name} is not Ready" for name in waiting), *silent]
    return Finding(
        Outcome.FAIL if wrong else Outcome.PASS,
        f"{len(bench.nodes)} nodes Ready, and an answer from each of {len(urls)} servers outside",
        "; ".join(wrong) or f"{len(bench.nodes)} nodes Ready; {seen}",
        probes.typed(pod, bench.current_namespace, urls[0]),
    )


def pod_of_your_own(bench: Bench, pod: str, address: str, url: str) -> Finding:
    """A pod of that name runs, and the server outside sees the address."""
    wish = ipaddress.ip_address(address)
    try:
        found = bench.pod(pod)
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        return Finding(
            Outcome.NOT_ATTEMPTED,
            f"a pod named {pod}, seen as {wish}",
            "there is no pod of that name",
            f"kubectl -n {bench.current_namespace} get pods",
        )
    answer = bench.reach(pod, url)
    return Finding(
        Outcome.PASS if answer.address == wish else Outcome.FAIL,
        f"{pod} is seen as {wish}",
        f"{answer} (pod on {found.node})",
        probes.typed(pod, bench.current_namespace, url),
    )


CHECKS = (
    Check(
        "lab-is-ready",
        "the lab is whole, and a pod reaches the world outside",
        lab_is_ready,
        (
            "Look at the nodes: `kubectl get nodes`; and at the pod: `kubectl get pods -o wide`.",
            "A node that is not Ready: `egresslab status` says what of the lab does not run.",
            "`egresslab labs reset --hard`, as root, takes the lab down and brings it up again in ten seconds.",
        ),
    ),
    Check(
        "pod-of-your-own",
        "your pod runs where it was asked to",
        pod_of_your_own,
        (
            "The server tells which address it sees, and that depends on the node that the pod runs on.",
            "Look up in the picture, or with `kubectl get nodes -o wide`, which node has the address 192.168.60.14.",
            '`lab.run_pod("mine", node="lab-worker3")` runs it there. If it runs elsewhere already: '
            '`lab.move_pod("mine", "lab-worker3")`.',
        ),
    ),
)
