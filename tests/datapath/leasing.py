"""A rig whose nodes follow a lease: what the voters would write, written by the test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_network

from egresslab.datapath.leases import LeaseMaps
from egresslab.datapath.probe import GrantRequest, Request
from egresslab.datapath.testing import Node, Rig
from egresslab.datapath.values import GatewaySlot, Holder, PolicyEntry

LEASE = 77
VOTER = IPv4Address("192.168.60.11")


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def clean(maps: LeaseMaps) -> None:
    for lease in maps.leases():
        maps.delete_lease(lease)
    for lease in maps.holders():
        maps.delete_holder(lease)
    for address, ifindex in maps.announced():
        maps.withdraw(address, ifindex)
    maps.set_voters(())


@contextmanager
def following(rig: Rig) -> Iterator[Rig]:
    """A pod of `source` whose everything leaves by LEASE, for which `gateway` and `spare` are candidates."""
    for name, node in rig.nodes.items():
        clean(node.datapath.leases)
        node.datapath.leases.set_voters([VOTER])
        candidate = name != "source"
        node.datapath.slots.set(
            1,
            GatewaySlot(
                source_v4=node.public_v4 if candidate else None,
                source_v6=node.public_v6 if candidate else None,
                ifindex=node.links["eth1"] if candidate else 0,
                lease=LEASE,
            ),
        )
        node.datapath.policy.update(
            PolicyEntry(address, ip_network("0.0.0.0/0" if address.version == 4 else "::/0"), 1)
            for member in rig.nodes.values()
            for address in member.pods[0].addresses
        )
        if candidate:
            node.datapath.leases.make_lease(LEASE)
    yield rig
    for node in rig.nodes.values():
        clean(node.datapath.leases)


def lead_to(rig: Rig, target: str | None, epoch: int = 1) -> None:
    """What every node's voter would write once `target` holds the lease."""
    for name, node in rig.nodes.items():
        if target is None:
            node.datapath.leases.delete_holder(LEASE)
        else:
            node.datapath.leases.set_holder(LEASE, Holder(rig.nodes[target].v4, epoch, local=name == target))


def grant(node: Node, milliseconds: int, epoch: int = 1) -> int:
    """Until when the node now holds the lease."""
    request = Request(1, 0, now_ns(), (GrantRequest(LEASE, milliseconds, epoch),))
    answer = node.datapath.leases.probe(request, sender=VOTER, target=node.v4)
    assert answer and answer.leases[0].held_ms > 0
    return request.echo_ns + milliseconds * 1_000_000
