"""What the voter is told: who may hold which lease, in which order, who is fit; nothing before voters are known."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_interface

import pytest

from egresslab.agent.interfaces import NodeInterface
from egresslab.agent.readiness import GRACE_S, AgentReadiness
from egresslab.agent.voting import Surroundings, build_voting, lease_of
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.voters import VoterSet
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Delete, Upsert
from egresslab.policy.inventory import ActiveChoice, NodeHealth
from egresslab.policy.model import Dialect, GroupKey
from egresslab.policy.settings import Settings
from egresslab.voter.files import Failback, Group, dump, parse_voting
from tests.unit.policy import build

VOTERS = VoterSet(4, ("gw-a", "gw-b", "other"))
OUT = GroupKey(Dialect.EGRESSLAB, "out")
NODES = (build.node("gw-a", 2), build.node("gw-b", 3), build.node("other", 4, gateway=False))


def interface(name: str, index: int, *addresses: str) -> NodeInterface:
    found = tuple(ip_interface(address) for address in addresses)
    return NodeInterface(name, index, None, True, found, (), (), 1500, ())


HERE = Surroundings(
    "gw-a",
    (interface("eth0", 2, "192.168.60.2/24"), interface("eth1", 3, "172.18.18.2/24")),
    lambda lease, node: True,
    lambda group, node: None,
    {},
)


def group_of(engine: Engine, around: Surroundings = HERE) -> Group:
    (group,) = build_voting(engine, VOTERS, around).groups
    return group


def test_nobody_votes_before_the_voters_are_known_and_their_addresses() -> None:
    told = build.engine(*NODES, build.gateway(source={"virtualIPs": ["192.168.60.200"]}))
    assert build_voting(told, None, HERE).groups == ()
    stranger = VoterSet(5, ("gw-a", "gw-b", "gone"))
    assert build_voting(told, stranger, HERE).voters == ()
    remembered = replace(HERE, known={"gone": IPv4Address("192.168.60.9")})
    voting = build_voting(told, stranger, remembered)
    assert (voting.voters, voting.generation) == (stranger.nodes, 5)
    assert len(voting.groups) == 1


def test_candidates_stand_in_the_dialects_order_with_the_reason_why_one_is_not_fit() -> None:
    told = build.engine(
        *NODES, build.gateway(source={"virtualIPs": ["192.168.60.200"], "announceInterfaces": ["eth0"]})
    )
    build.tell(told, build.node("gw-a", 2, cordoned=True))
    group = group_of(told)
    assert [(each.node, each.fit, each.reason) for each in group.candidates] == [
        ("gw-a", False, "is cordoned"),
        ("gw-b", True, ""),
    ]
    assert (group.lease, group.key) == (lease_of(OUT), "egresslab.dev/v1alpha1/out")
    assert ([str(address) for address in group.addresses], group.announce) == (["192.168.60.200"], ("eth0",))
    assert group.failback is Failback.NEVER


def test_who_is_dead_is_for_the_voters_to_say() -> None:
    told = build.engine(*NODES, build.gateway())
    told.apply(Upsert(NodeHealth("gw-a", False)))
    assert all(each.fit for each in group_of(told).candidates)


def test_a_holder_that_is_no_candidate_any_more_is_probed_until_it_has_handed_over() -> None:
    told = build.engine(*NODES, build.gateway())
    told.apply(Upsert(ActiveChoice(OUT, "gw-a")))
    build.tell(told, build.node("gw-a", 2, gateway=False))
    assert [(each.node, each.fit) for each in group_of(told).candidates] == [("gw-b", True), ("gw-a", False)]
    told.apply(Upsert(ActiveChoice(OUT, "gw-b")))
    assert [each.node for each in group_of(told).candidates] == ["gw-b"]
    told.apply(Delete(ActiveChoice(OUT, "gw-b").ref))


def test_a_primary_address_needs_its_interfaces_link_and_no_replication() -> None:
    told = build.engine(*NODES, build.gateway(source={"interface": "eth1"}))
    behind = replace(HERE, synced=lambda lease, node: False)
    group = group_of(told, behind)
    assert (group.wires, group.announce, group.addresses) == (("eth1",), (), ())
    assert all(each.synced for each in group.candidates)
    build.tell(told, build.gateway(source={"virtualIPs": ["192.168.60.200"]}))
    assert not any(each.synced for each in group_of(told, behind).candidates)


@pytest.mark.parametrize("aware", [False, True])
def test_gateways_of_other_groups_are_watched_where_their_health_counts(aware: bool) -> None:
    told = build.engine(*NODES, build.cilium(), settings=Settings(cilium_health_aware_gateways=aware))
    watched = [each.node for each in build_voting(told, VOTERS, HERE).watched]
    assert watched == (["gw-a", "gw-b"] if aware else [])


def test_the_voter_can_read_what_is_written() -> None:
    told = build.engine(*NODES, build.gateway(source={"virtualIPs": ["192.168.60.200"]}), build.policy())
    for around in (HERE, replace(HERE, stretch=5)):
        voting = build_voting(told, VOTERS, around)
        assert parse_voting(json.loads(dump(voting))) == voting


def test_where_processors_are_slow_probes_are_too() -> None:
    told = build.engine(*NODES, build.gateway(source={"virtualIPs": ["192.168.60.200"]}), build.policy())
    slow = replace(HERE, stretch=5)
    assert group_of(told, slow).pace.interval_ms == 5 * group_of(told).pace.interval_ms
    assert group_of(told, slow).pace.failures == group_of(told).pace.failures
    assert build_voting(told, VOTERS, slow).stretch == 5


def agent_pod(node: str, *, ready: bool, uid: str = "") -> dict[str, object]:
    return {
        "kind": "Pod",
        "metadata": {
            "namespace": "kube-system",
            "uid": uid or f"uid-{node}",
            "labels": {"app.kubernetes.io/name": "egresslab-agent"},
        },
        "spec": {"nodeName": node},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def test_an_agents_restart_is_no_absence_but_a_long_one_is() -> None:
    now = 100.0
    readiness = AgentReadiness("here", lambda: now)

    def take(pod: dict[str, object], kind: ChangeType = ChangeType.MODIFIED) -> None:
        assert readiness.take(ObjectChange(kind, pod, None))

    assert readiness.doubt("here") is None
    assert readiness.doubt("there") is not None
    take(agent_pod("there", ready=False))
    assert readiness.doubt("there") is not None
    take(agent_pod("there", ready=True))
    assert readiness.doubt("there") is None
    take(agent_pod("there", ready=True), ChangeType.DELETED)
    take(agent_pod("there", ready=False, uid="another"))
    assert readiness.doubt("there") is None
    assert readiness.wait_s() == GRACE_S
    now += GRACE_S
    assert readiness.doubt("there") is not None
    assert readiness.wait_s() is None
