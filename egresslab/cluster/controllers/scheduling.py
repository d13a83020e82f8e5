"""Where a pod goes: filters say which nodes can take it and why others cannot, scores say which of them is best.

Pure: `place` answers from the board alone, the same answer every time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from egresslab.cluster.controllers.board import Board, Neighbours, Seat
from egresslab.cluster.controllers.facts import NodeFacts, PodFacts
from egresslab.cluster.controllers.tolerations import HARD, UNSCHEDULABLE, Effect, Taint, untolerated

CORDONED = "node(s) were unschedulable"
NODE_MISMATCH = "node(s) didn't match Pod's node affinity/selector"
NO_FREE_PORTS = "node(s) didn't have free ports for the requested pod ports"
TOO_MANY_PODS = "Too many pods"
AFFINITY_MISMATCH = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY_MISMATCH = "node(s) didn't match pod anti-affinity rules"
EXISTING_ANTI_AFFINITY = "node(s) didn't satisfy existing pods anti-affinity rules"
NO_NODES = "no nodes available to schedule pods"

FULL_SCORE = 100
WEIGHT_NODE_AFFINITY = 2
WEIGHT_POD_AFFINITY = 2
WEIGHT_SPREAD = 2
WEIGHT_TAINTS = 3
WEIGHT_FEWEST_PODS = 1
"""The default weights of kube-scheduler for the plugins with the same purpose."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node cannot take a pod; `curable` when fewer pods on it would help, so that preemption could be tried."""

    reason: str
    curable: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """The node chosen, or None and one refusal for each node."""

    node: str | None
    refusals: tuple[Refusal, ...] = ()

    @property
    def message(self) -> str:
        """Kubernetes' sentence for a pod that fits nowhere."""
        if not self.refusals:
            return NO_NODES
        count = len(self.refusals)
        curable = sum(item.curable for item in self.refusals)
        remedies = Counter(
            {
                "Preemption is not helpful for scheduling": count - curable,
                "No preemption victims found for incoming pod": curable,
            }
        )
        head = f"0/{count} nodes are available"
        reasons = Counter(item.reason for item in self.refusals)
        return f"{head}: {_enumerate(reasons)}. preemption: {head}: {_enumerate(remedies)}."


def place(pod: PodFacts, board: Board) -> Placement:
    """The best node for `pod` now, ties going to the first name."""
    among = Neighbours(board, pod)
    fitting, refusals = [], []
    for name in sorted(board.seats):
        seat = board.seats[name]
        refusal = _refusal(pod, seat, among)
        if refusal is None:
            fitting.append(seat)
        else:
            refusals.append(refusal)
    if not fitting:
        return Placement(None, tuple(refusals))
    scores = _scores(pod, fitting, among)
    best = max(range(len(fitting)), key=lambda index: (scores[index], -index))
    return Placement(fitting[best].node.name)


def matches_node(pod: PodFacts, node: NodeFacts) -> bool:
    """Whether nodeSelector and required node affinity allow `node`."""
    if any(node.labels.get(key) != value for key, value in pod.node_selector.items()):
        return False
    required = pod.affinity.node
    return required is None or any(term.matches(node.name, node.labels) for term in required)


def _refusal(pod: PodFacts, seat: Seat, among: Neighbours) -> Refusal | None:
    """The first reason in kube-scheduler's order of plugins."""
    node = seat.node
    cordon = Taint(UNSCHEDULABLE, "", Effect.NO_SCHEDULE)
    if node.unschedulable and not any(item.tolerates(cordon) for item in pod.tolerations):
        return Refusal(CORDONED)
    taint = untolerated(node.taints, pod.tolerations, HARD)
    if taint is not None:
        return Refusal(f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}")
    if not matches_node(pod, node):
        return Refusal(NODE_MISMATCH)
    if pod.ports and any(
        mine.clashes(theirs) for other in seat.pods.values() for theirs in other.ports for mine in pod.ports
    ):
        return Refusal(NO_FREE_PORTS, curable=True)
    return _shortage(pod, seat) or _neighbourhood(node, among)


def _shortage(pod: PodFacts, seat: Seat) -> Refusal | None:
    limits = seat.node.allocatable
    if "pods" in limits and len(seat.pods) >= limits["pods"]:
        return Refusal(TOO_MANY_PODS, curable=True)
    for name, value in sorted(pod.requests.items()):
        limit = limits.get(name)
        if value > 0 and limits and seat.requested.get(name, Decimal(0)) + value > (limit or 0):
            return Refusal(f"Insufficient {name}", curable=limit is not None and value <= limit)
    return None


def _neighbourhood(node: NodeFacts, among: Neighbours) -> Refusal | None:
    for key, values in among.wanted:
        value = node.labels.get(key)
        if value is None or not (among.first or values[value]):
            return Refusal(AFFINITY_MISMATCH)
    for key, values in among.shunned:
        value = node.labels.get(key)
        if value is not None and values[value]:
            return Refusal(ANTI_AFFINITY_MISMATCH, curable=True)
    if any(node.labels.get(key) == value for key, value in among.closed):
        return Refusal(EXISTING_ANTI_AFFINITY, curable=True)
    return None


def _scores(pod: PodFacts, seats: list[Seat], among: Neighbours) -> list[int]:
    """One number for each seat, the higher the better."""
    criteria: tuple[tuple[int, Callable[[Seat], int]], ...] = (
        (WEIGHT_NODE_AFFINITY, lambda seat: _node_preference(pod, seat.node)),
        (WEIGHT_POD_AFFINITY, lambda seat: _pod_preference(seat.node, among)),
        (WEIGHT_SPREAD, lambda seat: -seat.owners[pod.owner] if pod.owner else 0),
        (WEIGHT_TAINTS, lambda seat: -_soft_taints(pod, seat.node)),
        (WEIGHT_FEWEST_PODS, lambda seat: -len(seat.pods)),
    )
    totals = [0] * len(seats)
    for weight, measure in criteria:
        for index, score in enumerate(_normalised([measure(seat) for seat in seats])):
            totals[index] += weight * score
    return totals


def _normalised(values: list[int]) -> list[int]:
    """Stretched over 0 to 100; all 0 when they do not differ."""
    low, high = min(values), max(values)
    if low == high:
        return [0] * len(values)
    return [FULL_SCORE * (value - low) // (high - low) for value in values]


def _node_preference(pod: PodFacts, node: NodeFacts) -> int:
    return sum(term.weight for term in pod.affinity.node_preferred if term.matches(node.name, node.labels))


def _pod_preference(node: NodeFacts, among: Neighbours) -> int:
    return sum(weight * values[node.labels.get(key, "")] for weight, key, values in among.preferred)


def _soft_taints(pod: PodFacts, node: NodeFacts) -> int:
    return sum(
        taint.effect is Effect.PREFER_NO_SCHEDULE and not any(item.tolerates(taint) for item in pod.tolerations)
        for taint in node.taints
    )


def _enumerate(reasons: Counter[str]) -> str:
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items() if count))
