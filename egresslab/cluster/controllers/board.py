"""The cluster as the scheduler has it before it: nodes, the pods bound to them, namespaces' labels.

Kept incrementally and without I/O, so that a decision costs what the one pod needs and can be tested on made-up boards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from egresslab.cluster.controllers.affinity import PodTerm
from egresslab.cluster.controllers.facts import NodeFacts, PodFacts


@dataclass(slots=True)
class Seat:
    """A node with the pods that are bound to it."""

    node: NodeFacts
    pods: dict[str, PodFacts] = field(default_factory=dict)
    owners: Counter[str] = field(default_factory=Counter)
    requested: dict[str, Decimal] = field(default_factory=dict)

    def take(self, pod: PodFacts, sign: int) -> None:
        self.owners[pod.owner] += sign
        for name, value in pod.requests.items():
            self.requested[name] = self.requested.get(name, Decimal(0)) + sign * value


class Board:
    """Nodes, the pods bound to them, and namespaces' labels, kept incrementally."""

    def __init__(self) -> None:
        self.seats: dict[str, Seat] = {}
        self._pods: dict[str, PodFacts] = {}
        self._guarded: dict[str, PodFacts] = {}
        self._namespaces: dict[str, Mapping[str, str]] = {}

    def set_node(self, node: NodeFacts) -> bool:
        """Add or change a node; whether anything that matters changed."""
        seat = self.seats.get(node.name)
        if seat is not None:
            changed = seat.node != node
            seat.node = node
            return changed
        seat = self.seats[node.name] = Seat(node)
        for pod in self._pods.values():
            if pod.node == node.name:
                seat.pods[pod.uid] = pod
                seat.take(pod, 1)
        return True

    def remove_node(self, name: str) -> None:
        """Forget a node; pods bound to it come back into sight should it return."""
        self.seats.pop(name, None)

    def set_pod(self, pod: PodFacts) -> None:
        """Add or change a pod that is bound."""
        self.remove_pod(pod.uid)
        self._pods[pod.uid] = pod
        if pod.affinity.anti:
            self._guarded[pod.uid] = pod
        seat = self.seats.get(pod.node)
        if seat is not None:
            seat.pods[pod.uid] = pod
            seat.take(pod, 1)

    def remove_pod(self, uid: str) -> bool:
        """Forget a pod that is gone or has finished; whether it was known."""
        pod = self._pods.pop(uid, None)
        self._guarded.pop(uid, None)
        if pod is None:
            return False
        seat = self.seats.get(pod.node)
        if seat is not None and seat.pods.pop(uid, None) is not None:
            seat.take(pod, -1)
        return True

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """A namespace's labels; None when it is gone."""
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels

    def pods_selected(self, terms: Iterable[PodTerm]) -> Iterator[PodFacts]:
        """Bound pods that all `terms` speak of."""
        for pod in self._pods.values():
            labels = self._namespaces.get(pod.namespace, {})
            if all(term.selects(pod.labels, pod.namespace, labels) for term in terms):
                yield pod

    def topology(self, pod: PodFacts, key: str) -> str | None:
        """The value of node label `key` where `pod` runs."""
        seat = self.seats.get(pod.node)
        return seat.node.labels.get(key) if seat is not None else None

    def guards_against(self, pod: PodFacts) -> set[tuple[str, str]]:
        """(label, value) of the topologies that running pods' anti-affinity keeps `pod` out of."""
        closed = set()
        labels = self._namespaces.get(pod.namespace, {})
        for guard in self._guarded.values():
            for term in guard.affinity.anti:
                value = self.topology(guard, term.topology)
                if value is not None and term.selects(pod.labels, pod.namespace, labels):
                    closed.add((term.topology, value))
        return closed

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """Labels of a namespace, empty when unknown."""
        return self._namespaces.get(name, {})


class Neighbours:
    """Where the pods are that one incoming pod wants to be with or away from; computed once for all nodes."""

    def __init__(self, board: Board, pod: PodFacts) -> None:
        affinity = pod.affinity
        self.closed = board.guards_against(pod)
        companions = list(board.pods_selected(affinity.pods)) if affinity.pods else []
        self.wanted = [(term.topology, _count_topologies(board, companions, term.topology)) for term in affinity.pods]
        # The first of a group that wants to be together has nobody to follow and may start anywhere.
        labels = board.namespace_labels(pod.namespace)
        self.first = not any(values for _, values in self.wanted) and all(
            term.selects(pod.labels, pod.namespace, labels) for term in affinity.pods
        )
        self.shunned = [(term.topology, _term_counts(board, term)) for term in affinity.anti]
        self.preferred = [
            (sign * term.weight, term.topology, _term_counts(board, term))
            for sign, terms in ((1, affinity.pods_preferred), (-1, affinity.anti_preferred))
            for term in terms
        ]


def _count_topologies(board: Board, pods: Iterable[PodFacts], key: str) -> Counter[str]:
    return Counter(value for pod in pods if (value := board.topology(pod, key)) is not None)


def _term_counts(board: Board, term: PodTerm) -> Counter[str]:
    return _count_topologies(board, board.pods_selected((term,)), term.topology)
