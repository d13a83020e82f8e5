"""Checks of chapter 14: what grows with a cluster, and what does not."""

from __future__ import annotations

from egresslab.lab.checks.model import Bench, Check, Finding, Outcome
from egresslab.lab.scale import Growth

NODES, PODS_OF_A_NODE, DESTINATIONS, ROOM = 1_000, 100, 3, 131_072
EVENT_MAY_GROW = 0.25
"""Of the factor by which the cluster grows: an engine whose events cost the same stays far below, a scan does not."""


def rows_multiply(bench: Bench, pods: int, destinations: int, namespace: str) -> Finding:
    """Every node has a row for each pod and each destination."""
    wanted = pods * destinations
    counts = {node.name: len(bench.map_entries(node.name)) for node in bench.nodes}
    return Finding(
        Outcome.PASS if set(counts.values()) == {wanted} else Outcome.FAIL,
        f"{pods} × {destinations} = {wanted} rows on every node",
        ", ".join(f"{name}: {count}" for name, count in counts.items()),
        "egresslab bpf egress list",
    )


def event_does_not_grow(bench: Bench, growth: Growth) -> Finding:
    """From the smallest to the largest cluster, one pod's event grows far less than the cluster."""
    first, last = growth[0], growth[-1]
    cluster, event = last.pods / first.pods, last.event_ms / first.event_ms
    plain = last.plain_ms / first.plain_ms
    return Finding(
        Outcome.PASS if event < max(2.0, EVENT_MAY_GROW * cluster) and event < plain else Outcome.FAIL,
        f"the cluster grows {cluster:.0f} times, one event much less",
        f"one event {event:.1f} times, the plain way {plain:.1f} times",
    )


def will_it_fit(bench: Bench, answer: tuple[int, int] | None) -> Finding:
    """Rows with three destinations, and the most destinations whose rows fit."""
    if answer is None:
        return Finding(Outcome.NOT_ATTEMPTED, "two numbers", "no answer yet")
    pods = NODES * PODS_OF_A_NODE
    right = tuple(answer) == (pods * DESTINATIONS, ROOM // pods)
    return Finding(Outcome.PASS if right else Outcome.FAIL, "rows wanted, and destinations that fit", f"{answer}")


CHECKS = (
    Check(
        "rows-multiply",
        "pods times destinations, on every node",
        rows_multiply,
        (
            "Count the rows of one node, and then of another.",
            "Each pod has one row for each destination, wherever it runs.",
            "More rows than that belong to other policies: `kubectl get ciliumegressgatewaypolicies`.",
        ),
    ),
    Check(
        "event-does-not-grow",
        "one event costs about the same in a large cluster",
        event_does_not_grow,
        (
            "Compare the first and the last line of the table, column by column.",
            "A busy machine disturbs small numbers: measure again.",
            "Take sizes that are further apart: sizes = [300, 3000].",
        ),
        within_s=1.0,
    ),
    Check(
        "will-it-fit",
        "the size of a map is worked out beforehand",
        will_it_fit,
        (
            "How many pods are there, and how many rows does each of them make on one node?",
            "Every node holds the rows of all pods, not of its own only.",
            "100,000 pods: three destinations make 300,000 rows, and 131,072 // 100,000 destinations fit.",
        ),
    ),
)
