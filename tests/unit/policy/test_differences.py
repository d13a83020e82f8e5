"""Each deliberate difference of docs/differences.md: ours, and Cilium's own outcome where one exists."""

from __future__ import annotations

import itertools
from ipaddress import ip_address
from typing import Any

import pytest

from egresslab.policy.cases import rows as case_rows
from egresslab.policy.entries import Configure, Reason, Upsert
from egresslab.policy.inventory import NodeHealth
from egresslab.policy.settings import Fidelity, Settings
from tests.unit.policy import build

CILIUM = Settings(fidelity=Fidelity.CILIUM)
TO = ("10.0.0.1", "203.0.113.0/24")
WEB = build.pod("a", "10.0.0.1", on="gw")

ENTRIES = [
    {"podSelector": {"matchLabels": {"app": "web"}}, "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "gw"}}},
    {"podSelector": {"matchLabels": {"app": "api"}}},
]


@pytest.mark.parametrize(("settings", "selected"), [(Settings(), True), (CILIUM, False)], ids=["ours", "cilium"])
def test_a_node_selector_binds_to_its_own_entry(settings: Settings, selected: bool) -> None:
    api = build.pod("b", "10.0.0.2", on="elsewhere", labels={"app": "api"})
    told = build.engine(
        build.node("gw", 2),
        build.node("elsewhere", 3, gateway=False),
        build.cilium(selectors=ENTRIES),
        WEB,
        api,
        settings=settings,
    )
    assert TO in build.rows(told)
    assert (("10.0.0.2", TO[1]) in build.rows(told)) is selected


@pytest.mark.parametrize(
    ("operator", "ours", "cilium"),
    [("In", True, False), ("Exists", True, False), ("NotIn", False, True), ("DoesNotExist", False, True)],
)
@pytest.mark.parametrize("key", ["pod-template-hash", "statefulset.kubernetes.io/pod-name", "x.beta.kubernetes.io/y"])
def test_labels_that_cilium_leaves_out_of_identities(key: str, operator: str, ours: bool, cilium: bool) -> None:
    expression = {"key": key, "operator": operator, **({"values": ["v"]} if operator in ("In", "NotIn") else {})}
    pod = build.pod("a", "10.0.0.1", labels={key: "v", "app.kubernetes.io/name": "web"})
    named = {"app.kubernetes.io/name": "web", "io.kubernetes.pod.namespace": "default"}
    policy = build.cilium(selectors=[{"podSelector": {"matchLabels": named, "matchExpressions": [expression]}}])
    for settings, selected in ((Settings(), ours), (CILIUM, cilium)):
        told = build.engine(build.node("gw", 2), policy, pod, settings=settings)
        assert (TO in build.rows(told)) is selected


@pytest.mark.parametrize(
    ("addresses", "gateway", "ours", "cilium"),
    [
        (["172.18.0.3/16", "10.1.0.1/24"], {"interface": "eth1"}, "172.18.0.3", "10.1.0.1"),
        (["10.1.0.9/24", "10.1.0.1/24"], {"interface": "eth1"}, "10.1.0.9", "10.1.0.9"),
        (["10.1.0.9/24", "10.1.0.1/24", "8.8.4.4/24"], {"interface": "eth1"}, "10.1.0.9", "8.8.4.4"),
        (["172.18.0.3/16", "10.1.0.1/24", "fd00:18::9/64"], {"egressIP": "fd00:18::9"}, "172.18.0.3", "10.1.0.1"),
        (["172.18.0.3/16", "10.1.0.1/24"], {"egressIP": "172.18.0.3"}, "172.18.0.3", "172.18.0.3"),
        (["172.18.0.3/16", "10.1.0.1/24"], {}, "172.18.0.3", "172.18.0.3"),
    ],
)
def test_which_of_several_addresses_of_an_interface(
    addresses: list[str], gateway: dict[str, str], ours: str, cilium: str
) -> None:
    """Cilium sorts them, but for the default route's: secondary ones last, public ones first, then by value."""
    interfaces = {"eth1": {"addresses": addresses, "default_route": ["ipv4"]}}
    choice = {"nodeSelector": {"matchLabels": {"egress": "true"}}, **gateway}
    for settings, expected in ((Settings(), ours), (CILIUM, cilium)):
        told = build.engine(
            build.node("gw", 2, interfaces=interfaces), WEB, build.cilium(egressGateway=choice), settings=settings
        )
        assert build.rows(told)[TO][0] == expected


def test_cilium_pools_node_selectors_also_to_select_more() -> None:
    """Any entry on a node of any nodeSelector: an api pod on the web entry's node."""
    selectors = [
        ENTRIES[0],
        {"podSelector": {"matchLabels": {"app": "api"}}, "nodeSelector": {"matchLabels": {"zone": "z"}}},
    ]
    api = build.pod("b", "10.0.0.2", on="gw", labels={"app": "api"})
    objects = [build.node("gw", 2), build.cilium(selectors=selectors), api]
    assert build.rows(build.engine(*objects)) == {}
    assert ("10.0.0.2", TO[1]) in build.rows(build.engine(*objects, settings=CILIUM))


def moving_address(steps: list[dict[str, Any]]) -> dict[str, Any]:
    gateway = {
        "name": "gw",
        "ip": "10.1.0.1",
        "labels": {"egress": "true"},
        "interfaces": [{"name": "eth0", "ips": ["10.1.0.1/24"]}],
    }
    return {
        "nodes": [gateway],
        "namespaces": [{"name": "default", "labels": {}}],
        "pods": [{"name": "a", "namespace": "default", "labels": {"app": "web"}, "ip": "10.0.0.1", "uid": "u"}],
        "policies": [
            build.cilium(egressGateway={"nodeSelector": {"matchLabels": {"egress": "true"}}, "egressIP": "10.1.0.7"})
        ],
        "steps": steps,
        "observer_node": "gw",
    }


ADD = {"op": "add_ip", "node": "gw", "interface": "eth0", "ip": "10.1.0.7/24"}
REMOVE = {**ADD, "op": "remove_ip"}
POLICY_EVENT = {"op": "apply_policy", "policy": build.cilium("unrelated", selectors=[])}


@pytest.mark.parametrize(
    ("steps", "ours", "cilium"),
    [
        ([], "0.0.0.0", "0.0.0.0"),
        ([ADD], "10.1.0.7", "0.0.0.0"),
        ([ADD, POLICY_EVENT], "10.1.0.7", "10.1.0.7"),
        ([ADD, POLICY_EVENT, REMOVE], "0.0.0.0", "10.1.0.7"),
    ],
)
def test_an_address_that_appears_or_goes_is_noticed_at_once(steps: list[Any], ours: str, cilium: str) -> None:
    for settings, expected in ((Settings(), ours), (CILIUM, cilium)):
        (row,) = case_rows(moving_address(steps), settings)
        assert row["egress_ip"] == expected


def test_a_conflict_is_decided_by_name_in_any_order_and_reported() -> None:
    eth1 = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "interface": "eth1"}
    objects = [build.node("gw", 2), WEB, build.cilium("q", egressGateway=eth1), build.cilium("p")]
    for order in itertools.permutations(objects):
        told = build.engine(*order)
        assert build.rows(told)[TO] == ("192.168.60.2", "192.168.60.2")
        assert [(p.subject, p.reason) for p in told.problems()] == [
            ("CiliumEgressGatewayPolicy/p", Reason.CONFLICT),
            ("CiliumEgressGatewayPolicy/q", Reason.CONFLICT),
        ]


def test_policies_that_agree_are_no_conflict() -> None:
    told = build.engine(build.node("gw", 2), WEB, build.cilium("q"), build.cilium("p"))
    assert not told.problems()


def test_an_exclusion_beats_the_same_destination_of_its_policy() -> None:
    told = build.engine(build.node("gw", 2), WEB, build.cilium(excludedCIDRs=["203.0.113.0/24"]))
    assert build.rows(told)[TO] == ("192.168.60.2", "0.0.0.1")
    assert [problem.reason for problem in told.problems()] == [Reason.CONFLICT]


def test_a_full_map_is_reported() -> None:
    pods = [build.pod(f"a{number}", f"10.0.0.{number}") for number in range(1, 6)]
    told = build.engine(build.node("gw", 2), build.cilium(), *pods, settings=Settings(capacity=4))
    assert [(p.subject, p.reason) for p in told.problems()] == [("policy map", Reason.MAP_FULL)]


@pytest.mark.parametrize("aware", [False, True])
def test_health_is_looked_at_only_where_the_setting_says_so(aware: bool) -> None:
    told = build.engine(
        build.node("gw", 2, ready=False),
        build.node("gw2", 3),
        build.node("gw3", 4),
        WEB,
        build.cilium(),
        settings=Settings(cilium_health_aware_gateways=aware),
    )
    assert build.rows(told)[TO][1] == ("192.168.60.3" if aware else "192.168.60.2")
    told.apply(Upsert(NodeHealth("gw2", False)))
    assert build.rows(told)[TO][1] == ("192.168.60.4" if aware else "192.168.60.2")


def test_the_setting_may_change_while_the_engine_runs() -> None:
    told = build.engine(build.node("gw", 2, ready=False), build.node("gw2", 3), WEB, build.cilium())
    for aware, address in ((True, "192.168.60.3"), (False, "192.168.60.2")):
        changes = told.apply(Configure(Settings(cilium_health_aware_gateways=aware)))
        assert build.rows(told)[TO][1] == address
        assert len(changes.slots) == 1
        assert not changes.entries
    with pytest.raises(ValueError, match="fidelity"):
        told.apply(Configure(Settings(Fidelity.CILIUM)))


def test_a_finished_pod_and_a_pod_on_the_hosts_network_have_no_entries() -> None:
    finished = build.pod("a", "10.0.0.1")
    finished["status"]["phase"] = "Succeeded"
    host = build.pod("b", "192.168.60.2")
    host["spec"]["hostNetwork"] = True
    assert build.rows(build.engine(build.node("gw", 2), build.cilium(), finished, host)) == {}


def test_a_terminating_pod_keeps_its_entries() -> None:
    going = build.pod("a", "10.0.0.1")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert TO in build.rows(build.engine(build.node("gw", 2), build.cilium(), going))


def test_an_address_that_two_pods_claim_belongs_to_the_one_that_stays() -> None:
    going = build.pod("old", "10.0.0.1")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    staying = build.pod("new", "10.0.0.1", labels={"app": "other"})
    told = build.engine(build.node("gw", 2), build.cilium(), going, staying)
    assert build.rows(told) == {}
    holder = told.pods.holder(ip_address("10.0.0.1"))
    assert holder is not None
    assert holder.pod.name == "new"


def test_host_bits_stay_in_the_text_and_go_from_the_key() -> None:
    told = build.engine(build.node("gw", 2), WEB, build.cilium(destinationCIDRs=["203.0.113.7/24"]))
    assert list(build.rows(told)) == [("10.0.0.1", "203.0.113.7/24")]
    (entry,) = told.entries()
    assert str(entry.destination) == "203.0.113.0/24"


def test_an_excluded_family_that_no_destination_needs_has_no_egress_ip() -> None:
    told = build.engine(
        build.node("gw", 2), build.pod("a", "10.0.0.1", "fd00::1"), build.cilium(excludedCIDRs=["2001:db8::/64"])
    )
    assert build.rows(told, "gw")["fd00::1", "2001:db8::/64"] == ("::", "0.0.0.1")


@pytest.mark.parametrize(
    ("gateway", "rows"),
    [
        ({"egressIP": "fd00:18::2"}, ("172.18.18.2", "fd00:18::2")),
        ({"egressIP": "172.18.18.2"}, ("172.18.18.2", "fd00:18::2")),
        ({"interface": "public"}, ("172.18.18.2", "fd00:18::2")),
        ({"interface": "eth2"}, ("0.0.0.0", "::")),
        ({"interface": "absent"}, ("0.0.0.0", "::")),
        ({"egressIP": "198.51.100.1"}, ("0.0.0.0", "::")),
        ({}, ("192.168.60.2", "fd00:60::2")),
    ],
)
def test_families_of_a_gateway(gateway: dict[str, str], rows: tuple[str, str]) -> None:
    interfaces = {
        "eth0": build.ETH0,
        "eth1": {**build.ETH1, "altnames": ["public"]},
        "eth2": {"addresses": ["198.51.100.2/24", "fe80::2/64"]},
    }
    told = build.engine(
        build.node("gw", 2, interfaces=interfaces),
        build.pod("a", "10.0.0.1", "fd00::1"),
        build.cilium(
            destinationCIDRs=["203.0.113.0/24", "2001:db8::/32"],
            egressGateway={"nodeSelector": {"matchLabels": {"egress": "true"}}, **gateway},
        ),
    )
    found = build.rows(told, "gw")
    assert (found[TO][0], found["fd00::1", "2001:db8::/32"][0]) == rows
    assert bool(told.problems()) is ("0.0.0.0" in rows)
