"""The selectors of a policy, which all dialects write in the same shape."""

from __future__ import annotations

from egresslab.api.selectors import EVERYTHING
from egresslab.policy.fields import Fields
from egresslab.policy.model import Selection


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
