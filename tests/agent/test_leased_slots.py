"""A slot that follows a lease holds what this node would leave with, and does not change when another takes over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, ip_address
from pathlib import Path

import pytest

from egresslab.agent.programmer import Programmer
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.leases import lease_number
from egresslab.datapath.values import GatewaySlot
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Delete, Upsert
from egresslab.policy.inventory import ActiveChoice, Interface, Node, Pod
from egresslab.policy.model import Dialect, GroupKey
from egresslab.policy.objects import from_kubernetes
from tests.agent.test_programmer import bpffs

pytestmark = pytest.mark.root
__all__ = ["bpffs"]

OUT = GroupKey(Dialect.EGRESSLAB, "out")
LEASE = lease_number(OUT.dialect, OUT.name)
VIP = IPv4Address("198.51.100.200")


def node(number: int, *, gateway: bool = True) -> Node:
    interface = Interface("eth1", (IPv4Interface(f"198.51.100.{number}/24"),), default_route_v4=True)
    return Node(
        f"n{number}",
        {"gateway": "yes"} if gateway else {},
        internal_v4=IPv4Address(f"192.0.2.{number}"),
        interfaces=(interface,),
    )


class Here:
    """Node n1: its engine and kernel."""

    def __init__(self, pins: Path) -> None:
        sizes = {"policy_entries": 64, "slot_entries": 64, "endpoint_entries": 64, "nat_entries": 64}
        self.datapath = Datapath.open(pins, **sizes)
        self.engine, self.programmer = Engine(), Programmer(self.datapath, "n1", lambda name: 7)
        self.programmer.adopt(self.engine)

    def tell(self, *changes: Upsert | Delete) -> None:
        for change in changes:
            self.programmer.apply(self.engine.apply(change))
            self.programmer.rewrite_slots()

    @property
    def slot(self) -> GatewaySlot:
        (slot,) = dict(self.datapath.slots.items()).values()
        return slot


@pytest.fixture
def here(bpffs: Path, request: pytest.FixtureRequest) -> Iterator[Here]:
    found = Here(bpffs / request.node.name[:40])
    yield found
    found.datapath.close()


def gateway(source: dict[str, object]) -> Upsert:
    spec = {"nodeSelector": {"matchLabels": {"gateway": "yes"}}, "source": source}
    return _value("EgressGateway", "out", spec)


def policy(fail_mode: str = "Closed") -> Upsert:
    spec = {
        "egressGatewayName": "out",
        "selectors": [{"podSelector": {}}],
        "destinationCIDRs": ["0.0.0.0/0"],
        "failMode": fail_mode,
    }
    return _value("EgressGatewayPolicy", "p", spec)


def _value(kind: str, name: str, spec: Mapping[str, object]) -> Upsert:
    value = from_kubernetes({"apiVersion": Dialect.EGRESSLAB, "kind": kind, "metadata": {"name": name}, "spec": spec})
    assert value is not None
    return Upsert(value)


POD = Upsert(Pod("default", "a", "uid-a", {}, node="n1", addresses=(ip_address("10.0.0.1"),)))
WORLD = (Upsert(node(1)), Upsert(node(2)), POD)


def test_a_virtual_address_is_in_every_candidates_slot_and_a_failover_writes_nothing(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.tell(*WORLD, gateway({"virtualIPs": [str(VIP)]}), policy())
    assert here.slot == GatewaySlot(source_v4=VIP, lease=LEASE)
    monkeypatch.setattr(type(here.datapath.slots), "set", lambda *_: pytest.fail("a slot was written"))
    here.tell(Upsert(ActiveChoice(OUT, "n1")), Upsert(ActiveChoice(OUT, "n2")))
    (number,) = here.programmer.slots_of(OUT)
    assert here.programmer.gateway_of(number) == "n2"


def test_a_nodes_own_address_goes_with_a_reset_for_whoever_was_connected(here: Here) -> None:
    here.tell(*WORLD, gateway({"interface": "eth1"}), policy("Open"), Upsert(ActiveChoice(OUT, "n2")))
    own = IPv4Address("198.51.100.1")
    assert here.slot == GatewaySlot(source_v4=own, ifindex=7, lease=LEASE, reset=True, open=True)


def test_only_candidates_and_a_holder_that_has_not_handed_over_yet_have_a_source(here: Here) -> None:
    here.tell(*WORLD, gateway({"virtualIPs": [str(VIP)]}), policy(), Upsert(ActiveChoice(OUT, "n1")))
    here.tell(Upsert(node(1, gateway=False)))
    assert here.slot.source_v4 == VIP
    here.tell(Upsert(ActiveChoice(OUT, "n2")))
    assert here.slot == GatewaySlot(lease=LEASE)
    here.tell(Upsert(node(1)))
    assert here.slot.source_v4 == VIP


def test_without_its_gateway_object_a_policy_drops_and_follows_nobody(here: Here) -> None:
    group = gateway({"virtualIPs": [str(VIP)]})
    here.tell(*WORLD, group, policy())
    here.tell(Delete(next(ref for ref in here.engine.values if ref.kind == "Group")))
    assert here.slot == GatewaySlot()
