"""Which egress IPs a node is to be given: those that a policy or gateway asks to have assigned, on its gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from egresslab.policy.engine import Engine
from egresslab.policy.groups import GroupState
from egresslab.policy.model import Address
from egresslab.policy.sources import home, interfaces_of


class Assignment(NamedTuple):
    """An address and the interface that it is to be put on."""

    address: Address
    interface: str


def assignments(engine: Engine, node: str) -> frozenset[Assignment]:
    """What `node` is to carry, whether it does already or not. An address without a fitting interface is left out; what
    no policy uses is not assigned."""
    own = engine.registry.nodes.get(node)
    if own is None:
        return frozenset()
    found = set()
    for state in engine.registry.groups.values():
        for index in _gateway_of(state, engine, node) if state.policies else ():
            assert state.group is not None
            source = state.group.members[index].source
            for address in source.addresses:
                interface = home(source, address, interfaces_of(own))
                if interface is not None and interface.name:
                    found.add(Assignment(address, interface.name))
    return frozenset(found)


def _gateway_of(state: GroupState, engine: Engine, node: str) -> Iterator[int]:
    """Members with addresses to assign that the node is the gateway of. Of a standby group it is while it holds the
    lease, and not while nobody says so: two nodes must not carry one address."""
    group, around = state.group, engine.registry.around
    if group is None or not any(member.source.assign for member in group.members):
        return
    if group.standby:
        assert group.key is not None
        if around.active.get(group.key) == node:
            yield 0
        return
    for index, (member, gateway) in enumerate(zip(group.members, state.firsts(around), strict=True)):
        if member.source.assign and gateway is not None and gateway.node == node:
            yield index
