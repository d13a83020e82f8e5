"""What our dialect adds: fail mode, spread, several egress IPs, priority, domains, an active node by decision."""

from __future__ import annotations

import pytest

from egresslab.datapath.values import SPILLS
from egresslab.policy.entries import Delete, Reason, Upsert, localise
from egresslab.policy.inventory import ActiveChoice, DomainAnswer, Kind, NodeHealth, Ref
from egresslab.policy.model import Dialect, FailbackPolicy, GatewayGroup, GroupKey
from egresslab.policy.objects import from_kubernetes
from tests.unit.policy import build

OUT = GroupKey(Dialect.EGRESSLAB, "out")
WEB = build.pod("a", "10.0.0.1")
TO = ("10.0.0.1", "203.0.113.0/24")


def test_standby_uses_the_first_eligible_node_by_name() -> None:
    told = build.engine(build.node("gw-b", 3), build.node("gw-a", 2), build.gateway(), build.policy(), WEB)
    assert build.rows(told)[TO] == ("192.168.60.2", "192.168.60.2")
    assert build.rows(told, "gw-b")[TO] == ("0.0.0.0", "192.168.60.2")


@pytest.mark.parametrize("why", ["not ready", "cordoned", "unhealthy", "no interface"])
def test_an_ineligible_node_is_passed_over(why: str) -> None:
    bare = {"eth0": build.ETH0}
    first = build.node(
        "gw-a",
        2,
        ready=why != "not ready",
        cordoned=why == "cordoned",
        interfaces=bare if why == "no interface" else None,
    )
    told = build.engine(first, build.node("gw-b", 3), build.gateway(source={"interface": "eth1"}), build.policy(), WEB)
    if why == "unhealthy":
        told.apply(Upsert(NodeHealth("gw-a", False)))
    assert build.rows(told)[TO] == ("172.18.18.3", "192.168.60.3")
    if why == "unhealthy":
        told.apply(Upsert(NodeHealth("gw-a", True)))
        assert build.rows(told)[TO] == ("172.18.18.2", "192.168.60.2")


def test_the_holder_of_the_lease_is_the_gateway_whatever_the_objects_say() -> None:
    told = build.engine(build.node("gw-a", 2), build.node("gw-b", 3), build.gateway(), build.policy(), WEB)
    told.apply(Upsert(ActiveChoice(OUT, "gw-b")))
    assert build.rows(told)[TO][1] == "192.168.60.3"
    for changed in (build.node("gw-b", 3, ready=False), build.node("gw-b", 3, gateway=False)):
        build.tell(told, changed)
        assert build.rows(told)[TO][1] == "192.168.60.3"
    build.tell(told, build.node("gw-b", 3))
    told.apply(Delete(ActiveChoice(OUT, "gw-b").ref))
    assert build.rows(told)[TO][1] == "192.168.60.2"


@pytest.mark.parametrize(("mode", "gateway_ip"), [("Closed", "0.0.0.0"), ("Open", "0.0.0.1")])
def test_fail_mode_decides_what_happens_without_a_gateway(mode: str, gateway_ip: str) -> None:
    told = build.engine(build.gateway(), build.policy(failMode=mode), WEB)
    assert build.rows(told)[TO] == ("0.0.0.0", gateway_ip)
    (slot,) = told.slots().values()
    assert localise(slot, "anywhere").passes is (mode == "Open")
    build.tell(told, build.node("gw", 2))
    assert build.rows(told)[TO] == ("192.168.60.2", "192.168.60.2")
    assert not localise(next(iter(told.slots().values())), "anywhere").passes


def test_the_default_is_to_fail_closed_also_for_a_gateway_that_does_not_exist() -> None:
    told = build.engine(build.node("gw", 2), build.policy(), WEB)
    assert build.rows(told)[TO] == ("0.0.0.0", "0.0.0.0")
    assert [problem.reason for problem in told.problems()] == [Reason.NO_GATEWAY_OBJECT]
    build.tell(told, build.gateway())
    assert build.rows(told)[TO] == ("192.168.60.2", "192.168.60.2")
    assert not told.problems()


def test_virtual_addresses_need_no_interface_and_spill_over_in_order() -> None:
    addresses = ["192.168.60.200", "192.168.60.201", "fd00:60::200", "192.168.60.202"]
    told = build.engine(build.node("gw", 2), build.gateway(source={"virtualIPs": addresses}), build.policy(), WEB)
    (slot,) = told.slots().values()
    assert (str(slot.source_v4), str(slot.source_v6)) == ("192.168.60.200", "fd00:60::200")
    assert [str(address) for address in slot.spill_v4] == ["192.168.60.201", "192.168.60.202"]
    assert localise(slot, "gw").spill_v4 == slot.spill_v4
    assert localise(slot, "other").spill_v4 == ()


def test_addresses_beyond_what_a_slot_holds_are_named_and_not_used() -> None:
    carried = [f"172.18.18.{last}" for last in range(20, 30)]
    interfaces = {"eth1": {"addresses": [f"{address}/24" for address in carried], "default_route": ["ipv4"]}}
    gateway = build.gateway(source={"addresses": carried})
    told = build.engine(build.node("gw", 2, interfaces=interfaces), gateway, build.policy(), WEB)
    (slot,) = told.slots().values()
    assert (str(slot.source_v4), *map(str, slot.spill_v4)) == tuple(carried[: SPILLS + 1])
    problems = [problem for problem in told.problems() if problem.reason is Reason.TOO_MANY_ADDRESSES]
    assert {problem.subject.split("/")[0] for problem in problems} == {"EgressGateway", "EgressGatewayPolicy"}
    assert all("172.18.18.28, 172.18.18.29" in problem.message for problem in problems)


def test_addresses_are_used_where_a_node_carries_them() -> None:
    told = build.engine(
        build.node("gw-a", 2),
        build.node("gw-b", 3),
        build.gateway(source={"addresses": ["172.18.18.3", "192.168.60.3"]}),
        build.policy(destinationCIDRs=["203.0.113.0/24", "2001:db8::/32"]),
        build.pod("a", "10.0.0.1", "fd00::1"),
    )
    assert build.rows(told)[TO] == ("172.18.18.3", "192.168.60.3")
    assert build.rows(told)["fd00::1", "2001:db8::/32"] == ("::", "192.168.60.3")
    assert [problem.reason for problem in told.problems()] == [Reason.FAMILY_MISSING]


def test_losing_one_of_five_moves_only_its_own_pods() -> None:
    nodes = [build.node(f"gw-{number}", number) for number in range(1, 6)]
    pods = [build.pod(f"a{i}", f"10.0.{i >> 8}.{i & 255}") for i in range(1000)]
    told = build.engine(*nodes, build.gateway(mode="Spread"), build.policy(), *pods)
    before = {key: gateway for key, (_, gateway) in build.rows(told).items()}
    changes = told.apply(Delete(Ref(Kind.NODE, "gw-3")))
    after = {key: gateway for key, (_, gateway) in build.rows(told).items()}
    moved = {key for key in before if before[key] != after[key]}
    assert moved == {key for key, gateway in before.items() if gateway == "192.168.60.3"}
    assert 0.1 < len(moved) / len(pods) < 0.3
    assert not changes.entries, "a lost gateway rewrites slots and no entry"
    shares = [list(before.values()).count(f"192.168.60.{number}") for number in range(1, 6)]
    assert min(shares) > 100
    build.tell(told, nodes[2])
    assert {key: gateway for key, (_, gateway) in build.rows(told).items()} == before


def test_spread_with_nobody_left_drops() -> None:
    told = build.engine(build.node("gw", 2), build.gateway(mode="Spread"), build.policy(), WEB)
    assert build.rows(told)[TO][1] == "192.168.60.2"
    build.tell(told, build.node("gw", 2, ready=False))
    assert build.rows(told)[TO] == ("0.0.0.0", "0.0.0.0")


def test_priority_beats_the_longer_prefix() -> None:
    told = build.engine(
        build.node("gw", 2),
        build.gateway(),
        build.gateway("other", source={"interface": "eth1"}),
        build.policy("wide", destinationCIDRs=["203.0.0.0/16"], excludedCIDRs=["203.0.1.0/24"], priority=5),
        build.policy("narrow", destinationCIDRs=["203.0.113.0/24", "198.51.100.0/24"], egressGatewayName="other"),
        WEB,
    )
    assert build.rows(told) == {
        ("10.0.0.1", "203.0.0.0/16"): ("192.168.60.2", "192.168.60.2"),
        ("10.0.0.1", "203.0.1.0/24"): ("192.168.60.2", "0.0.0.1"),
        ("10.0.0.1", "198.51.100.0/24"): ("172.18.18.2", "192.168.60.2"),
    }
    assert not told.problems(), "what priority decides is no conflict"


def test_a_tie_is_decided_by_name_and_reported_on_both() -> None:
    told = build.engine(
        build.node("gw", 2),
        build.gateway(),
        build.gateway("other", source={"interface": "eth1"}),
        build.policy("q", egressGatewayName="other"),
        build.policy("p"),
        WEB,
    )
    assert build.rows(told)[TO] == ("192.168.60.2", "192.168.60.2")
    assert [(problem.subject, problem.reason) for problem in told.problems()] == [
        ("EgressGatewayPolicy/p", Reason.CONFLICT),
        ("EgressGatewayPolicy/q", Reason.CONFLICT),
    ]
    build.tell(told, build.policy("q", egressGatewayName="other", priority=1))
    assert build.rows(told)[TO] == ("172.18.18.2", "192.168.60.2")
    assert not told.problems()


def test_domains_become_entries_as_their_addresses_are_known() -> None:
    told = build.engine(
        build.node("gw", 2),
        build.gateway(),
        build.policy(destinationCIDRs=[], destinationDomains=["api.example.com", "*.example.org"]),
        WEB,
    )
    assert build.rows(told) == {}

    def answer(name: str, *texts: str) -> None:
        from ipaddress import ip_address

        told.apply(Upsert(DomainAnswer(name, tuple(map(ip_address, texts)))))

    answer("api.example.com", "203.0.113.7", "2001:db8::7")
    answer("a.b.example.org", "203.0.113.8")
    answer("example.org", "203.0.113.9")
    assert set(build.rows(told)) == {("10.0.0.1", "203.0.113.7/32"), ("10.0.0.1", "203.0.113.8/32")}
    answer("api.example.com", "203.0.113.10")
    told.apply(Delete(Ref(Kind.DOMAIN, "a.b.example.org")))
    assert set(build.rows(told)) == {("10.0.0.1", "203.0.113.10/32")}


def test_settings_of_a_gateway_reach_the_model() -> None:
    group = from_kubernetes(
        build.gateway(
            source={"virtualIPs": ["192.168.60.200"], "announceInterfaces": ["eth0"]},
            failback={"policy": "Delayed"},
            health={"failures": 5, "upstream": [{"protocol": "ICMP", "target": "192.168.60.1", "failures": 2}]},
            sessionReplication=False,
        )
    )
    assert isinstance(group, GatewayGroup)
    assert (group.failback.policy, group.failback.delay_s) == (FailbackPolicy.DELAYED, 300.0)
    assert (group.health.interval_s, group.health.failures, group.health.upstream[0].failures) == (0.05, 5, 2)
    assert group.announce_interfaces == ("eth0",)
    assert [str(address) for address in group.virtual_addresses] == ["192.168.60.200"]
    assert not group.replicate_sessions
    assert group.standby


def test_the_defaults_are_those_that_the_documentation_gives() -> None:
    group = from_kubernetes(build.gateway())
    assert isinstance(group, GatewayGroup)
    assert group.failback.policy is FailbackPolicy.NEVER
    assert (group.health.interval_s, group.health.failures, group.health.recoveries) == (0.05, 3, 3)
    assert group.replicate_sessions


@pytest.mark.parametrize("why", ["no link", "nothing upstream"])
def test_a_node_that_found_itself_unfit_is_passed_over(why: str) -> None:
    cut = {"eth0": build.ETH0, "eth1": {**build.ETH1, "carrier": False}}
    first = build.node("gw-a", 2, interfaces=cut if why == "no link" else None)
    if why == "nothing upstream":
        first["metadata"]["annotations"]["egresslab.dev/gateway-health"] = f'{{"{OUT.text}": "nothing answers"}}'
    out = build.gateway(source={"interface": "eth1"})
    told = build.engine(first, build.node("gw-b", 3), out, build.policy(), WEB)
    assert build.rows(told)[TO] == ("172.18.18.3", "192.168.60.3")
    build.tell(told, build.node("gw-a", 2))
    assert build.rows(told)[TO] == ("172.18.18.2", "192.168.60.2")


@pytest.mark.parametrize("said", ["{", "[]", '{"x": 1}', "null", '"text"'])
def test_health_that_cannot_be_read_was_not_said(said: str) -> None:
    first = build.node("gw-a", 2)
    first["metadata"]["annotations"]["egresslab.dev/gateway-health"] = said
    told = build.engine(first, build.node("gw-b", 3), build.gateway(), build.policy(), WEB)
    assert build.rows(told)[TO][1] == "192.168.60.2"
