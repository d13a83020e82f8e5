"""Finding the selectors that match a pod, and the pods that match a selector, without trying them all.

An identity is a set of labels in a namespace, shared by all pods that have it, as in Cilium: selectors are matched once
for an identity, not for each pod. An index by one equality of each selector leaves few to try.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from egresslab.api.selectors import Operator
from egresslab.policy.inventory import POD_NAMESPACE_LABEL
from egresslab.policy.model import Selection

T = TypeVar("T")
Pair = tuple[str, str]
NAMESPACE_MARK = "namespace:"
"""Before the keys of namespace labels in the index; no label name has a colon."""


def pod_labels(namespace: str, labels: Mapping[str, str]) -> dict[str, str]:
    """What a podSelector is matched on: the pod's labels and the pseudo-label with its namespace."""
    return {**labels, POD_NAMESPACE_LABEL: namespace}


def selects(selection: Selection, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> bool:
    """Whether pod and namespace parts match; the node part is somebody else's question."""
    return selection.pods.matches(labels) and (
        selection.namespaces is None or selection.namespaces.matches(namespace_labels)
    )


class SelectionIndex(Generic[T]):
    """Selections with something attached, found by a pod's labels and its namespace's."""

    def __init__(self) -> None:
        self._by_pair: dict[Pair, dict[tuple[Selection, T], None]] = {}
        self._others: dict[tuple[Selection, T], None] = {}
        self._filed: dict[tuple[Selection, T], list[Pair]] = {}

    def add(self, selection: Selection, item: T) -> None:
        """Attach `item` to a selection."""
        # Filed under the equality that fewest others are filed under, so that few are tried for a pod.
        pairs = min(
            _equalities(selection),
            key=lambda pairs: max(len(self._by_pair.get(pair, ())) for pair in pairs),
            default=None,
        )
        if pairs is None:
            self._others[selection, item] = None
            return
        self._filed[selection, item] = pairs
        for pair in pairs:
            self._by_pair.setdefault(pair, {})[selection, item] = None

    def remove(self, selection: Selection, item: T) -> None:
        """Detach it."""
        self._others.pop((selection, item), None)
        for pair in self._filed.pop((selection, item), ()):
            bucket = self._by_pair[pair]
            del bucket[selection, item]
            if not bucket:
                del self._by_pair[pair]

    def matching(self, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> Iterator[tuple[Selection, T]]:
        """Selections whose pod and namespace parts match, each once."""
        for pair in labels.items():
            yield from self._tried(self._by_pair.get(pair), labels, namespace_labels)
        for key, value in namespace_labels.items():
            yield from self._tried(self._by_pair.get((NAMESPACE_MARK + key, value)), labels, namespace_labels)
        yield from self._tried(self._others, labels, namespace_labels)

    @staticmethod
    def _tried(
        found: Iterable[tuple[Selection, T]] | None, labels: Mapping[str, str], namespace_labels: Mapping[str, str]
    ) -> Iterator[tuple[Selection, T]]:
        for filed in found or ():
            if selects(filed[0], labels, namespace_labels):
                yield filed


def _equalities(selection: Selection) -> Iterator[list[Pair]]:
    """Sets of label pairs of which every matching pod has exactly one."""
    for requirement in selection.pods.requirements:
        if requirement.operator is Operator.IN:
            yield [(requirement.key, value) for value in requirement.values]
    for requirement in selection.namespaces.requirements if selection.namespaces else ():
        if requirement.operator is Operator.IN:
            yield [(NAMESPACE_MARK + requirement.key, value) for value in requirement.values]


class LabelIndex(Generic[T]):
    """Things with labels, found by a selection."""

    def __init__(self) -> None:
        self._by_pair: dict[Pair, dict[T, None]] = {}
        self._all: dict[T, None] = {}

    def add(self, labels: Mapping[str, str], item: T) -> None:
        """File `item` under each of its labels."""
        self._all[item] = None
        for pair in labels.items():
            self._by_pair.setdefault(pair, {})[item] = None

    def remove(self, labels: Mapping[str, str], item: T) -> None:
        """Take it out again."""
        self._all.pop(item, None)
        for pair in labels.items():
            bucket = self._by_pair[pair]
            bucket.pop(item, None)
            if not bucket:
                del self._by_pair[pair]

    def candidates(self, selection: Selection) -> Iterable[T]:
        """Things that the selection may match, each once."""
        best: list[dict[T, None]] | None = None
        for requirement in selection.pods.requirements:
            if requirement.operator is Operator.IN:
                buckets = [self._by_pair.get((requirement.key, value), {}) for value in requirement.values]
                if best is None or sum(map(len, buckets)) < sum(map(len, best)):
                    best = buckets
        if best is None:
            return list(self._all)
        return [item for bucket in best for item in bucket]
