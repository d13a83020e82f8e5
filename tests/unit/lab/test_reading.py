"""Reading what others print: manifests, listings of the map, the firewall's log, tcpdump, curl."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from egresslab.errors import LabError
from egresslab.lab import capture, entries, firewall, manifests, nodes, probes
from egresslab.lab.execs import ExecResult

POD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (POD, ["a"]),
        (POD + "---\n---\n" + POD.replace("name: a", "name: b"), ["a", "b"]),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}, ["c"]),
        ([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}] * 2, ["c", "c"]),
        ("kind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: d}}\n", ["d"]),
    ],
)
def test_manifests_in_every_form(source: manifests.Manifest, names: list[str]) -> None:
    assert [body["metadata"]["name"] for body in manifests.read(source)] == names


def test_a_manifest_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(POD)
    assert manifests.read(path) == manifests.read(str(path)) == manifests.read(POD)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("apiVersion: v1\nkind: Pod\n", "document 1: metadata.name: missing"),
        ("kind: Pod\nmetadata: {name: a}\n", "apiVersion: missing"),
        ("just: [a\n", "not valid YAML"),
        ("- a\n- b\n", "not an object"),
        ("\n", "holds no object"),
        ("nowhere.yaml", "nowhere.yaml: cannot be read"),
    ],
)
def test_a_manifest_that_is_none_says_what_is_wrong(source: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        manifests.read(source)


def test_map_rows_of_both_families_and_special_gateways() -> None:
    listed = [
        {"SourceIP": "10.244.1.2", "DestCIDR": "0.0.0.0/0", "EgressIP": "0.0.0.0", "GatewayIP": "Not Found"},
        {"SourceIP": "fd00::2", "DestCIDR": "::/0", "EgressIP": "::", "GatewayIP": "192.168.60.12"},
        {"SourceIP": "10.244.1.2", "DestCIDR": "10.0.0.5/24", "EgressIP": "0.0.0.0", "GatewayIP": "Excluded CIDR"},
    ]
    read = entries.parse("n1", json.dumps(listed))
    assert [row.gateway for row in read] == ["Not Found", ipaddress.ip_address("192.168.60.12"), "Excluded CIDR"]
    assert read[1].destination == ipaddress.ip_network("::/0")
    assert "Excluded CIDR" in str(entries.Entries(read))


@pytest.mark.parametrize("text", ["", "null", "[]"])
def test_an_empty_map_has_no_rows(text: str) -> None:
    assert entries.parse("n1", text) == []


@pytest.mark.parametrize("text", ["No entries found.", '[{"SourceIP": "10.0.0.1"}]', '{"a": 1}'])
def test_anything_else_is_no_listing(text: str) -> None:
    with pytest.raises(LabError, match="not a listing of the egress map"):
        entries.parse("n1", text)


@pytest.mark.parametrize(
    ("line", "admitted", "source"),
    [
        ("2026-11-21T11:08:15.374Z accepted tcp 192.168.60.11:44486 -> 192.168.60.13:80", True, "192.168.60.11"),
        ("2026-11-21T11:08:15.396Z refused tcp [fd00:60::12]:48968 -> [fd00:60::13]:80", False, "fd00:60::12"),
        ("2026-11-21T11:08:15.396Z refused icmp 192.168.60.12 -> 192.168.60.13", False, "192.168.60.12"),
        ("2026-11-21T11:08:15.396Z refused icmpv6 fd00:60::12 -> fd00:60::13", False, "fd00:60::12"),
    ],
)
def test_lines_of_the_firewalls_log(line: str, admitted: bool, source: str) -> None:
    contact = firewall.parse(line)
    assert contact is not None
    assert (contact.admitted, contact.source) == (admitted, ipaddress.ip_address(source))


def test_other_lines_of_the_log_are_no_contacts() -> None:
    assert firewall.parse("2026-11-21T11:08:15.374Z firewall on: allow 192.168.60.11/32; 8 addresses; reject") is None


def test_sources_in_what_tcpdump_prints() -> None:
    printed = """
IP 172.18.18.12.41840 > 203.0.113.10.80: Flags [S], seq 1, win 64240, length 0
eth1  In  IP 172.18.18.12.41840 > 203.0.113.10.80: Flags [.], ack 1, win 502, length 0
IP6 fd00:18::12.39642 > 2001:db8:113::10.80: Flags [S], seq 1, win 64800, length 0
IP 192.168.60.11 > 203.0.113.10: ICMP echo request, id 7, seq 1, length 64
IP6 fe80::1 > ff02::1: ICMP6, router advertisement, length 16
\tsome detail 10.0.0.1.80 > 10.0.0.2.80
lo    In  IP 203.0.113.10 > 203.0.113.10: ICMP host 172.18.18.242 unreachable, length 84
"""
    found = capture.count(capture.packets(printed))
    assert {str(address): count for address, count in found.items()} == {
        "172.18.18.12": 2,
        "fd00:18::12": 1,
        "192.168.60.11": 1,
        "fe80::1": 1,
    }


@pytest.mark.parametrize(
    "header", ["VXLAN, flags [I] (0x08), vni 230", "OTV, flags [I] (0x08), overlay 0, instance 230"]
)
def test_a_packet_of_the_tunnel_is_one_with_what_it_carries(header: str) -> None:
    outer = f"eth0  Out IP 192.168.60.11.49334 > 192.168.60.12.8472: {header}"
    inner = "IP 10.244.1.2.50716 > 203.0.113.10.80: Flags [S], seq 3035554068, win 64860, length 0"
    bare = "eth1  Out IP 172.18.18.12.50716 > 203.0.113.10.80: Flags [S], seq 3035554068, win 64860, length 0"
    found = capture.packets("\n".join((outer, inner, outer, inner, bare)) + "\n")
    assert found == (f"{outer}\n    {inner}", f"{outer}\n    {inner}", bare)
    assert {str(address): count for address, count in capture.count(found).items()} == {
        "192.168.60.11": 2,
        "172.18.18.12": 1,
    }


@pytest.mark.parametrize(
    ("ended", "address", "reason"),
    [
        (ExecResult("192.168.60.11\n", "", 0), "192.168.60.11", ""),
        (ExecResult("::ffff:192.168.60.11\n", "", 0), "192.168.60.11", ""),
        (ExecResult("fd00:60::11", "", 0), "fd00:60::11", ""),
        (ExecResult("", "curl: (7) Failed", 7), None, "connection refused (curl exit code 7)"),
        (ExecResult("", "curl: (28) Timeout", 28), None, "no answer in time (curl exit code 28)"),
        (ExecResult("<html>", "", 0), None, "answered with something else: '<html>'"),
    ],
)
def test_answers_of_curl(ended: ExecResult, address: str | None, reason: str) -> None:
    answer = probes.read("http://x/", ended)
    assert answer.address == (ipaddress.ip_address(address) if address else None)
    assert answer.reason == reason


def test_a_pod_without_curl_is_an_error_not_an_observation() -> None:
    with pytest.raises(LabError, match=r"(?s)no curl.*curlimages/curl"):
        probes.read("http://x/", ExecResult("", "curl: not found", 127))


def test_a_node_without_or_with_a_spoilt_annotation_has_no_interfaces() -> None:
    body = {"metadata": {"name": "n", "annotations": {nodes.INTERFACES_ANNOTATION: "{spoilt"}}, "status": {}}
    assert nodes.node(body).interfaces == {}
    body["metadata"] = {"name": "n"}
    assert nodes.node(body).ready is False
