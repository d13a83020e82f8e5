"""Slots: what changes at a gateway touches its slots and no entry; numbers stay while the choice exists."""

from __future__ import annotations

from egresslab.policy.engine import Engine
from egresslab.policy.entries import Delete, Upsert
from egresslab.policy.inventory import Kind, NodeHealth, Ref
from egresslab.policy.model import Dialect
from egresslab.policy.objects import from_kubernetes
from egresslab.policy.settings import Settings
from tests.unit.policy import build


def ref(kind: Kind, name: str) -> Ref:
    return Ref(kind, f"{Dialect.CILIUM}/{name}" if kind is Kind.POLICY else name)


def hundred_pods() -> list[build.Object]:
    return [build.pod(f"a{number}", f"10.0.0.{number}") for number in range(100)]


def test_a_failover_rewrites_one_slot_however_many_pods() -> None:
    told = build.engine(build.node("gw-a", 2), build.node("gw-b", 3), build.cilium(), *hundred_pods())
    before = list(told.entries())
    changes = told.apply(Delete(ref(Kind.NODE, "gw-a")))
    assert not changes.entries
    (change,) = changes.slots
    assert change.before is not None
    assert change.after is not None
    assert (change.before.gateway, change.after.gateway) == ("gw-a", "gw-b")
    assert change.before.number == change.after.number
    assert list(told.entries()) == before


def test_health_moves_slots_of_groups_that_look_at_it_only() -> None:
    told = build.engine(build.node("gw-a", 2), build.node("gw-b", 3), build.cilium(), build.gateway(), build.policy())
    changes = told.apply(Upsert(NodeHealth("gw-a", False)))
    assert [change.after.gateway for change in changes.slots if change.after] == ["gw-b"]


def test_a_moved_address_rewrites_the_slot() -> None:
    told = build.engine(build.node("gw", 2), build.cilium(), *hundred_pods())
    other = {"eth0": {**build.ETH0, "addresses": ["192.168.60.77/24"]}}
    changes = build.tell(told, build.node("gw", 2, interfaces=other))
    assert not changes.entries
    assert [str(change.after.source_v4) for change in changes.slots if change.after] == ["192.168.60.77"]


def test_policies_with_the_same_gateway_share_a_slot() -> None:
    told = build.engine(
        build.node("gw", 2), build.cilium("p"), build.cilium("q", destinationCIDRs=["198.51.100.0/24"]), *hundred_pods()
    )
    assert len(told.slots()) == 1


def test_numbers_start_at_one_and_are_taken_again_only_in_a_later_step() -> None:
    told = build.engine(build.node("gw", 2), build.cilium("p"), build.pod("a", "10.0.0.1"))
    assert list(told.slots()) == [1]
    elsewhere = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "interface": "eth1"}
    changes = build.tell(told, build.cilium("p", egressGateway=elsewhere))
    assert list(told.slots()) == [2]
    assert [(c.before.slot, c.after.slot) for c in changes.entries if c.before and c.after] == [(1, 2)]
    build.tell(told, build.cilium("q", selectors=[]))
    assert sorted(told.slots()) == [1, 2]


def test_a_batch_does_not_give_out_a_number_that_it_took_back() -> None:
    told = build.engine(build.node("gw", 2), build.cilium("p"), build.pod("a", "10.0.0.1"))
    elsewhere = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "interface": "eth1"}
    value = from_kubernetes(build.cilium("q", egressGateway=elsewhere))
    assert value is not None
    told.apply_all([Delete(ref(Kind.POLICY, "p")), Upsert(value)])
    assert list(told.slots()) == [2]


def test_a_pod_event_names_its_own_entries_only() -> None:
    told = build.engine(build.node("gw", 2), build.cilium(), *hundred_pods())
    added = build.tell(told, build.pod("new", "10.0.1.1"))
    assert [change.after.source.exploded for change in added.entries if change.after] == ["10.0.1.1"]
    relabelled = build.tell(told, build.pod("new", "10.0.1.1", labels={"app": "none"}))
    assert [change.after for change in relabelled.entries] == [None]
    assert not build.tell(told, build.pod("new", "10.0.1.1", labels={"app": "none", "more": "1"}))


def test_cilium_lists_keep_their_slots_when_the_number_of_gateways_changes() -> None:
    several = [{"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": name}}} for name in ("gw-a", "gw-b")]
    told = build.engine(
        build.node("gw-a", 2),
        build.node("gw-b", 3),
        build.cilium(egressGateway=None, egressGateways=several),
        *hundred_pods(),
    )
    halves = {gateway for _, gateway in build.rows(told).values()}
    assert halves == {"192.168.60.2", "192.168.60.3"}
    told.apply(Delete(ref(Kind.NODE, "gw-b")))
    assert {gateway for _, gateway in build.rows(told).values()} == {"192.168.60.2"}
    assert len(told.slots()) == 1


def test_settings_that_spread_need_as_many_slots_as_buckets() -> None:
    told = Engine(Settings(buckets=16))
    for obj in (build.node("gw", 2), build.gateway(mode="Spread"), build.policy(), build.policy("q")):
        build.tell(told, obj)
    assert len(told.slots()) == 16
    build.tell(told, build.gateway())
    assert len(told.slots()) == 1
