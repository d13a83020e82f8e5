"""Affinity as PodSpec states it, parsed once: node selector terms and terms about other pods.

Semantics are those of the API reference: terms of a node selector are ORed and the requirements in one are ANDed;
a term without requirements matches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from egresslab.api.resources import Object
from egresslab.api.selectors import LabelSelector, parse_selector


@dataclass(frozen=True, slots=True)
class NodeRequirement:
    """A condition on a node's label, or on its name when it comes from matchFields."""

    key: str
    operator: str
    values: tuple[str, ...]

    def matches(self, values: Mapping[str, str]) -> bool:
        """Whether `values` (labels, or fields) fulfil it."""
        value = values.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return self._compares(value)
        return False

    def _compares(self, value: str | None) -> bool:
        if value is None or len(self.values) != 1:
            return False
        try:
            found, bound = int(value), int(self.values[0])
        except ValueError:
            return False
        return found > bound if self.operator == "Gt" else found < bound


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """A nodeSelectorTerm; `weight` (1 to 100) is for preferences only."""

    expressions: tuple[NodeRequirement, ...]
    fields: tuple[NodeRequirement, ...]
    weight: int = 0

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether a node fulfils every requirement, of which there must be one."""
        if not self.expressions and not self.fields:
            return False
        return all(item.matches(labels) for item in self.expressions) and all(
            item.matches({"metadata.name": name}) for item in self.fields
        )


@dataclass(frozen=True, slots=True)
class PodTerm:
    """A podAffinityTerm: the pods that `selector` selects in some namespaces, compared by the node label `topology`."""

    selector: LabelSelector | None
    namespaces: frozenset[str]
    namespace_selector: LabelSelector | None
    topology: str
    weight: int = 0

    def selects(self, labels: Mapping[str, str], namespace: str, namespace_labels: Mapping[str, str]) -> bool:
        """Whether a pod in `namespace` is one that the term speaks of."""
        if self.selector is None:
            return False
        in_scope = namespace in self.namespaces or (
            self.namespace_selector is not None and self.namespace_selector.matches(namespace_labels)
        )
        return in_scope and self.selector.matches(labels)


@dataclass(frozen=True, slots=True)
class Affinity:
    """All affinity of one pod. `node` is None when no node affinity is required; an empty tuple matches no node."""

    node: tuple[NodeTerm, ...] | None = None
    node_preferred: tuple[NodeTerm, ...] = ()
    pods: tuple[PodTerm, ...] = ()
    pods_preferred: tuple[PodTerm, ...] = ()
    anti: tuple[PodTerm, ...] = ()
    anti_preferred: tuple[PodTerm, ...] = ()


NO_AFFINITY = Affinity()


def parse_affinity(spec: Object, namespace: str) -> Affinity:
    """The affinity in the PodSpec of a pod in `namespace`; raises `SelectorError` for a malformed selector."""
    given = spec.get("affinity")
    if not given:
        return NO_AFFINITY
    node = given.get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    return Affinity(
        node=None if required is None else tuple(_node_term(item) for item in required.get("nodeSelectorTerms") or ()),
        node_preferred=tuple(
            _node_term(item["preference"], item["weight"])
            for item in node.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        ),
        pods=_required(given.get("podAffinity"), namespace),
        pods_preferred=_preferred(given.get("podAffinity"), namespace),
        anti=_required(given.get("podAntiAffinity"), namespace),
        anti_preferred=_preferred(given.get("podAntiAffinity"), namespace),
    )


def _node_term(term: Object, weight: int = 0) -> NodeTerm:
    expressions, fields = (
        tuple(
            NodeRequirement(item["key"], item["operator"], tuple(item.get("values") or ()))
            for item in term.get(name) or ()
        )
        for name in ("matchExpressions", "matchFields")
    )
    return NodeTerm(expressions, fields, weight)


def _required(given: Object | None, namespace: str) -> tuple[PodTerm, ...]:
    terms = (given or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    return tuple(_pod_term(item, namespace) for item in terms)


def _preferred(given: Object | None, namespace: str) -> tuple[PodTerm, ...]:
    terms = (given or {}).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return tuple(_pod_term(item["podAffinityTerm"], namespace, item["weight"]) for item in terms)


def _pod_term(term: Object, namespace: str, weight: int = 0) -> PodTerm:
    selector, named, wider = term.get("labelSelector"), term.get("namespaces"), term.get("namespaceSelector")
    # The pod's own namespace counts only when the term says nothing about namespaces.
    namespaces = frozenset(named or (() if wider is not None else (namespace,)))
    return PodTerm(
        parse_selector(selector) if selector is not None else None,
        namespaces,
        parse_selector(wider) if wider is not None else None,
        term["topologyKey"],
        weight,
    )
