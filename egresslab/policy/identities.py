"""Labels that Cilium leaves out of identities: a podSelector that asks for one meets pods without it.

The list is Cilium's default (documentation, "Limiting Identity-Relevant Labels"); its option `labels` can change it,
which no object shows. Our own outcome never looks here: we match what the pod carries.
"""

from __future__ import annotations

import re
from dataclasses import replace

from egresslab.api.selectors import LabelSelector
from egresslab.policy.inventory import POD_NAMESPACE_LABEL
from egresslab.policy.model import EgressPolicy

_OUTSIDE = re.compile(
    r"io\.kubernetes|kubernetes\.io|k8s\.io|.*beta\.kubernetes\.io"
    r"|statefulset\.kubernetes\.io/pod-name|apps\.kubernetes\.io/pod-index|batch\.kubernetes\.io/job-completion-index"
    r"|pod-template-generation|pod-template-hash|controller-revision-hash|annotation|etcd_node"
)
"""Beginnings of keys."""
ABSENT = "not-in-identities:"
"""Before the key of a requirement, it asks for a label that no pod has: no label name has a colon."""


def outside_identities(key: str) -> bool:
    """Whether a pod's label of that name is no part of its identity."""
    return _OUTSIDE.match(key) is not None and not key.startswith(POD_NAMESPACE_LABEL)


def as_cilium_sees(policy: EgressPolicy) -> EgressPolicy:
    """The policy with requirements that fall on identities, as Cilium evaluates them."""
    if not any(outside_identities(wish.key) for entry in policy.selections for wish in entry.pods.requirements):
        return policy
    return replace(
        policy, selections=tuple(replace(entry, pods=_on_identity(entry.pods)) for entry in policy.selections)
    )


def _on_identity(pods: LabelSelector) -> LabelSelector:
    return LabelSelector(
        tuple(
            replace(wish, key=ABSENT + wish.key) if outside_identities(wish.key) else wish for wish in pods.requirements
        )
    )
