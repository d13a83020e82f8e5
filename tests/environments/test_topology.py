"""A topology is refused with the field and the value as long as no lab could be made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from egresslab.environments.definitions import definitions
from egresslab.environments.netns.fabric import plan_fabric
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.topology import Topology, load_topology, parse_topology
from egresslab.errors import EnvironmentFailure


def test_default_topology_is_the_one_the_tutorials_name(topology: Topology) -> None:
    assert [node.name for node in topology.nodes] == ["lab-control-plane", "lab-worker", "lab-worker2", "lab-worker3"]
    external = next(server for server in topology.outside.servers if server.name == "external")
    assert str(external.addresses[0]) == "192.168.60.13"
    assert [str(network) for network in topology.pod_subnets(topology.nodes[3])] == [
        "10.244.3.0/24",
        "fd00:10:244:3::/64",
    ]


def _two_nodes_one_address(content: dict[str, Any]) -> None:
    content["nodes"][2]["addresses"]["cluster"][0] = "192.168.60.11"


def _address_elsewhere(content: dict[str, Any]) -> None:
    content["nodes"][1]["addresses"]["public"][0] = "172.18.19.11"


def _no_control_plane(content: dict[str, Any]) -> None:
    del content["nodes"][0]["role"]


def _overlap(content: dict[str, Any]) -> None:
    content["pods"]["ipv4"] = "10.0.0.0/8"


def _two_names_in_thirteen_characters(content: dict[str, Any]) -> None:
    content["nodes"][1]["name"], content["nodes"][2]["name"] = "a-very-long-name-1", "a-very-long-name-2"


def _name_of_a_pod_namespace(content: dict[str, Any]) -> None:
    content["nodes"][1]["name"] = "0123abcd"


def _typing_mistake(content: dict[str, Any]) -> None:
    content["networks"]["public"]["metrik"] = 5


def _broadcast(content: dict[str, Any]) -> None:
    content["nodes"][1]["addresses"]["cluster"][0] = "192.168.60.255"


def _only_ipv4(content: dict[str, Any]) -> None:
    content["nodes"][1]["addresses"]["cluster"] = ["192.168.60.11"]


def _too_few_subnets(content: dict[str, Any]) -> None:
    content["pods"]["ipv4"] = "10.244.0.0/23"


@pytest.mark.parametrize(
    ("mistake", "field", "words"),
    [
        (_two_nodes_one_address, "nodes.lab-worker2.addresses.cluster", "belongs to nodes.lab-worker.addresses"),
        (_address_elsewhere, "nodes.lab-worker.addresses.public", "outside 172.18.18.0/24"),
        (_no_control_plane, "nodes", "exactly one node has role control-plane"),
        (_overlap, "pods.ipv4", "overlaps services.ipv4"),
        (_two_names_in_thirteen_characters, "nodes", "first 13 characters"),
        (_name_of_a_pod_namespace, "nodes", "uses itself"),
        (_typing_mistake, "networks.public.metrik", "not permitted"),
        (_broadcast, "nodes.lab-worker.addresses.cluster", "broadcast address"),
        (_only_ipv4, "nodes.lab-worker.addresses.cluster", "one IPv4 and one IPv6"),
        (_too_few_subnets, "pods.ipv4", "no /24 for each of 4 nodes"),
    ],
)
def test_impossible_labs_are_refused(content: dict[str, Any], mistake: Any, field: str, words: str) -> None:
    mistake(content)
    with pytest.raises(EnvironmentFailure) as refusal:
        parse_topology(content, "mine.yaml")
    assert refusal.value.object == "mine.yaml"
    assert refusal.value.field == field
    assert words in refusal.value.message
    assert refusal.value.fix


def test_a_node_of_another_site_is_known_by_its_own_network_and_has_no_pods() -> None:
    topology = load_topology(definitions("netns") / "edge.yaml")
    edge = topology.node("lab-edge")
    assert [str(address) for address in topology.internal_addresses(edge)] == ["10.111.128.148", "fd00:6f::148"]
    assert topology.pod_subnets(edge) == ()
    plan = next(n for n in plan_fabric(topology, LabPaths("x")).create if n.name == "egresslab-x-lab-edge")
    assert [link.name for link in plan.links] == ["eth2"]
    assert {route.via for route in plan.routes} == {"10.111.128.1", "fd00:6f::1"}


def test_a_node_with_pods_has_to_be_on_their_network(content: dict[str, Any]) -> None:
    del content["nodes"][1]["addresses"]["cluster"]
    with pytest.raises(EnvironmentFailure, match="needs addresses on cluster"):
        parse_topology(content, "mine.yaml")
    content["nodes"][1]["pod_network"] = False
    assert parse_topology(content, "mine.yaml").network_of(parse_topology(content, "x").nodes[1]) == "public"


def test_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("nodes: [")
    with pytest.raises(EnvironmentFailure, match="is not YAML"):
        load_topology(file)


def test_topology_survives_being_recorded(topology: Topology) -> None:
    assert parse_topology(topology.model_dump(mode="json"), "record") == topology


def test_plan_has_a_port_and_addresses_for_every_member(topology: Topology) -> None:
    plan = plan_fabric(topology, LabPaths("x"))
    ports = [link.port for namespace in plan.create for link in namespace.links if link.kind == "veth"]
    assert len(ports) == len(set(ports)) == 2 * (len(topology.nodes) + 1)
    assert all(port is not None and len(port) <= 15 for port in ports)
    worker = next(namespace for namespace in plan.create if namespace.name == "egresslab-x-lab-worker2")
    assert ("eth1", "172.18.18.12/24") in worker.addresses
    assert {(route.link, route.metric) for route in worker.routes} == {("eth0", 100), ("eth1", 200)}


def test_plan_of_one_node_leaves_the_rest_alone(topology: Topology) -> None:
    plan = plan_fabric(topology, LabPaths("x")).only("egresslab-x-lab-worker")
    assert [namespace.name for namespace in plan.create] == ["egresslab-x-lab-worker"]


@pytest.mark.parametrize("name", ["", "Upper", "a" * 17, "-a", "a-", "a/b", "a.b", ".."])
def test_lab_names_that_could_not_stand_in_paths_are_refused(name: str) -> None:
    with pytest.raises(EnvironmentFailure, match="not a name for a lab"):
        LabPaths(name)
