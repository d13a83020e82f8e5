"""What lint's rules look at, and how they report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from egresslab.policy.engine import Engine
from egresslab.policy.inventory import Node, Pod
from egresslab.policy.lint.findings import Finding, Rule
from egresslab.policy.model import EgressPolicy, GatewayGroup, Network

CILIUM_MAP_SIZE = 16_384
"""Default of Cilium's `egress-gateway-policy-map-max`."""


@dataclass(slots=True)
class Situation:
    """What the rules look at. `pods` have addresses or could have; `implied` ones only show what selectors can meet."""

    engine: Engine
    policies: dict[int, EgressPolicy] = field(default_factory=dict)
    """By position of their object in the input."""
    groups: dict[int, GatewayGroup] = field(default_factory=dict)
    objects: Sequence[object] = ()
    pods: list[Pod] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    namespaces_known: bool = False
    inside: dict[Network, str] = field(default_factory=dict)
    """Networks of the cluster and what they are."""
    map_size: int = CILIUM_MAP_SIZE


@dataclass(frozen=True, slots=True)
class Located:
    """A finding and the position, in the input, of the object that it is about; None for the whole."""

    finding: Finding
    index: int | None


Report = Callable[[int | None, Rule, str, str, str], None]
"""Takes position, rule, field, message, fix."""
