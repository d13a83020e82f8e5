"""The picture of the lab: well-formed, described, complete, and the same in words."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from xml.etree import ElementTree

from egresslab.lab.topology import Place, Topology
from tests.unit.lab.conftest import WORKERS, make_node, make_pod

SVG = "{http://www.w3.org/2000/svg}"


def make_topology() -> Topology:
    nodes = [make_node(name, digit) for name, digit in WORKERS.items()]
    pods = [make_pod("client", "lab-worker2", 7)]
    places = (
        Place("external server", "192.168.60.13", "192.168.60.0/24"),
        Place("ifconfig.me", "203.0.113.10"),
    )
    return Topology(nodes, pods, places)


def test_networks_come_from_what_nodes_carry() -> None:
    assert make_topology().networks == (
        ("eth0", ipaddress.ip_network("192.168.60.0/24")),
        ("eth1", ipaddress.ip_network("172.18.18.0/24")),
    )


def test_the_picture_is_well_formed_and_shows_everything() -> None:
    root = ElementTree.fromstring(make_topology().svg())
    shown = " ".join(root.itertext())
    for part in ("lab-worker3", "172.18.18.14", "pod client", "10.244.1.7", "external server", "203.0.113.10"):
        assert part in shown


def test_the_picture_is_described_in_words() -> None:
    root = ElementTree.fromstring(make_topology().svg())
    assert root.get("role") == "img"
    description = root.get("aria-label") or ""
    assert "3 nodes" in description
    assert "pod client runs on lab-worker2" in description


def test_the_table_says_the_same() -> None:
    table = make_topology().table()
    assert ("lab-worker2", "worker", "192.168.60.12", "172.18.18.12", "client") in table.rows
    assert ("external server", "outside", "192.168.60.13", "–", "–") in table.rows


def test_nothing_is_drawn_in_a_fixed_black_or_white() -> None:
    drawn = make_topology().svg().lower()
    assert not any(colour in drawn for colour in ("#000", "#fff", "black", "white"))


def test_nodes_without_interfaces_can_be_drawn() -> None:
    known = make_topology()
    bare = Topology([replace(node, interfaces={}) for node in known.nodes], known.pods, known.outside)
    ElementTree.fromstring(bare.svg())
    assert len(bare.table()) == 5


def test_names_are_escaped() -> None:
    known = make_topology()
    evil = replace(known.nodes[0], name="<b>&")
    assert "&lt;b&gt;&amp;" in Topology([evil], [], ()).svg()
