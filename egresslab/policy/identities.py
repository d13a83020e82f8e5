"""A policy as Cilium evaluates it, where its words do not say so: what podSelectors fall on, and which address counts.

A podSelector falls on identities, and a label that identities leave out is one that no pod has. The list is Cilium's
default (documentation, "Limiting Identity-Relevant Labels"); its option `labels` can change it, which no object shows.
Our own outcome never looks here.
"""

from __future__ import annotations

import re
from dataclasses import replace

from egresslab.api.selectors import LabelSelector
from egresslab.policy.inventory import POD_NAMESPACE_LABEL
from egresslab.policy.model import EgressPolicy, GatewayGroup

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
    """The policy with requirements that fall on identities and sources that sort addresses."""
    selections = tuple(replace(entry, pods=_on_identity(entry.pods)) for entry in policy.selections)
    group = policy.group
    if isinstance(group, GatewayGroup):
        members = tuple(replace(each, source=replace(each.source, sorted_addresses=True)) for each in group.members)
        group = replace(group, members=members)
    return replace(policy, selections=selections, group=group)


def _on_identity(pods: LabelSelector) -> LabelSelector:
    return LabelSelector(
        tuple(
            replace(wish, key=ABSENT + wish.key) if outside_identities(wish.key) else wish for wish in pods.requirements
        )
    )
