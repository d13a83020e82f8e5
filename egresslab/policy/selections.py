"""The selectors of a policy, which all dialects write in the same shape."""

from __future__ import annotations

from dataclasses import replace

from egresslab.api.selectors import EVERYTHING, LabelSelector
from egresslab.policy.fields import Fields
from egresslab.policy.model import Selection

NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
"""Before the keys of a namespace's labels among those of an identity, which Cilium matches podSelectors on."""


def on_identity(pods: LabelSelector, namespaces: LabelSelector | None) -> tuple[LabelSelector, LabelSelector | None]:
    """The same two selectors, with what the one for pods asks of the namespace's labels moved to where it belongs."""
    moved = [wish for wish in pods.requirements if wish.key.startswith(NAMESPACE_LABELS)]
    if not moved:
        return pods, namespaces
    own = tuple(wish for wish in pods.requirements if wish not in moved)
    of_namespace = tuple(replace(wish, key=wish.key.removeprefix(NAMESPACE_LABELS)) for wish in moved)
    return LabelSelector(own), LabelSelector((namespaces or EVERYTHING).requirements + of_namespace)


def read_selections(spec: Fields, *, needs_pod_or_namespace: bool, strict: bool = False) -> tuple[Selection, ...]:
    """`spec.selectors`; with `needs_pod_or_namespace`, an entry with a nodeSelector alone is refused."""
    selections = []
    for entry in spec.items("selectors"):
        pods = entry.selector("podSelector")
        namespaces = entry.selector("namespaceSelector")
        nodes = entry.selector("nodeSelector")
        entry.close(strict=strict)
        if pods is None and namespaces is None and (needs_pod_or_namespace or nodes is None):
            raise entry.refusal(
                "podSelector",
                "cannot have both nil namespace selector and nil pod selector",
                fix="add podSelector or namespaceSelector; podSelector: {} selects every pod",
            )
        selections.append(Selection(pods or EVERYTHING, namespaces, nodes))
    return tuple(selections)
