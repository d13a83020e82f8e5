"""The fabric, built in the kernel: who reaches whom, by which way, and what is left when it is gone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from egresslab.environments.netns.demolition import remove_namespace
from egresslab.environments.netns.fabric import plan_fabric, port_name
from egresslab.environments.netns.network import build, switch_ports
from egresslab.environments.netns.paths import FABRIC, LabPaths
from egresslab.environments.netns.topology import Topology
from egresslab.errors import EnvironmentFailure
from tests.environments.namespaces import inside

pytestmark = pytest.mark.root

HOME = Path("/proc/self/ns/net").stat().st_ino


def pings(paths: LabPaths, member: str, target: str, *options: str) -> bool:
    """Whether one echo request is answered within a second."""
    return inside(paths, member, "ping", "-nqc1", "-W1", *options, target).returncode == 0


def shown(paths: LabPaths, member: str, *words: str) -> Any:
    """What `ip -json` shows in a namespace."""
    return json.loads(inside(paths, member, "ip", "-json", *words).stdout)


def test_everybody_reaches_everybody_on_every_network(fabric: LabPaths, topology: Topology) -> None:
    targets = [address for node in topology.nodes for given in node.addresses.values() for address in given]
    targets += [address for server in topology.outside.servers for address in server.addresses]
    script = " && ".join(f"ping -nqc1 -W1 {target} >/dev/null" for target in targets)
    for node in topology.nodes:
        assert inside(fabric, node.name, "sh", "-c", script).returncode == 0, node.name


def test_world_is_reached_by_the_cluster_network_unless_bound_to_the_public_one(fabric: LabPaths) -> None:
    assert shown(fabric, "lab-worker", "route", "get", "203.0.113.10")[0]["dev"] == "eth0"
    assert shown(fabric, "lab-worker", "-6", "route", "get", "2001:db8:113::10")[0]["dev"] == "eth0"
    assert pings(fabric, "lab-worker", "203.0.113.10", "-I", "eth1")


def test_host_sees_nothing_of_the_lab(fabric: LabPaths, topology: Topology) -> None:
    links = {link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-json", "link"]))}
    assert not links & set(topology.networks)
    assert subprocess.run(["ping", "-nqc1", "-W1", "192.168.60.11"], capture_output=True).returncode != 0


def test_forwarding_is_switched_on_in_nodes_only(fabric: LabPaths) -> None:
    assert inside(fabric, "lab-worker", "cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "1"
    assert inside(fabric, FABRIC, "cat", "/proc/sys/net/ipv6/conf/all/disable_ipv6").stdout.strip() == "1"


def test_cutting_one_network_leaves_the_other(fabric: LabPaths) -> None:
    switch_ports(fabric.namespace(FABRIC), [port_name("lab-worker", 1)], "down")
    assert not pings(fabric, "lab-worker", "172.18.18.1")
    assert pings(fabric, "lab-worker", "192.168.60.1")
    switch_ports(fabric.namespace(FABRIC), [port_name("lab-worker", 1)], "up")
    assert pings(fabric, "lab-worker", "172.18.18.1", "-i0.1", "-c5")


def test_lost_node_gets_the_same_network_again(fabric: LabPaths, topology: Topology) -> None:
    before = shown(fabric, "lab-worker2", "address")
    remove_namespace(fabric.namespace("lab-worker2"))
    plan = plan_fabric(topology, fabric).only(fabric.namespace("lab-worker2"))
    build(plan, topology.networks).wait()
    after = shown(fabric, "lab-worker2", "address")
    assert [link["address"] for link in after] == [link["address"] for link in before]
    assert pings(fabric, "lab-worker", "192.168.60.12")


def test_failing_step_is_named(fabric: LabPaths, topology: Topology) -> None:
    with pytest.raises(EnvironmentFailure, match=f"could not make the namespace {fabric.namespace(FABRIC)}"):
        build(plan_fabric(topology, fabric), topology.networks).wait()


def test_caller_stays_in_its_namespace(fabric: LabPaths) -> None:
    assert Path("/proc/self/ns/net").stat().st_ino == HOME
