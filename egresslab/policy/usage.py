"""How much of the map each policy takes up, and which pods and nodes it concerns, for statuses and listings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from egresslab.policy.engine import Engine
from egresslab.policy.model import PolicyKey
from egresslab.policy.profiles import PolicyState, Profile


@dataclass(slots=True)
class Usage:
    """Of one policy: pods that it selects and that have an address, its entries, the nodes that those pods run on, and
    the nodes that are gateways for it now."""

    pods: int = 0
    entries: int = 0
    nodes: set[str] = field(default_factory=set)
    gateways: set[str] = field(default_factory=set)


def usage(engine: Engine) -> Mapping[PolicyKey, Usage]:
    """The usage of every policy; takes time in proportion to the pods."""
    found = {key: Usage() for key in engine.registry.policies}
    rows: dict[Profile, dict[tuple[PolicyState, int], int]] = {}
    for pod in engine.pods.by_uid.values():
        profile = pod.profile
        if not profile.states:
            continue
        if profile not in rows:
            rows[profile] = Counter((row.state, version) for version in (4, 6) for row in profile.rows(version))
        versions = Counter(address.version for address in engine.pods.owned(pod))
        if not versions:
            continue
        for state in profile.states:
            own = found[state.policy.key]
            own.pods += 1
            own.entries += sum(rows[profile][state, version] * count for version, count in versions.items())
            if pod.pod.node is not None:
                own.nodes.add(pod.pod.node)
            gateway = state.group.positions[pod.position(state.group)]
            if gateway is not None:
                own.gateways.add(gateway.node)
    return found
