"""The firewall's ConfigMap: what it may say, what is refused and how, and what nftables is told."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from egresslab.cluster.outside.config import Server
from egresslab.cluster.outside.packetlog import ATTRIBUTE_PAYLOAD, ATTRIBUTE_PREFIX, parse_messages, parse_packet
from egresslab.cluster.outside.rules import Action, parse_rules, ruleset
from egresslab.errors import ClusterError

SERVERS = (
    Server(name="external", addresses=(IPv4Address("192.168.60.13"), IPv6Address("fd00:60::13")), names=("ext.lab",)),
    Server(name="ifconfig.me", addresses=(IPv4Address("203.0.113.10"),)),
)


def test_without_allow_the_firewall_is_off() -> None:
    rules = parse_rules({}, SERVERS)
    assert rules.allow is None
    assert "chain" not in ruleset(rules)


def test_empty_allow_lets_nobody_in() -> None:
    assert parse_rules({"allow": ""}, SERVERS).allow == ()


def test_lines_commas_and_comments() -> None:
    rules = parse_rules({"allow": "192.0.2.1, 192.0.2.2 # two\n\n# none\n2001:db8::/32\n"}, SERVERS)
    assert rules.allow is not None
    assert [str(network) for network in rules.allow] == ["192.0.2.1/32", "192.0.2.2/32", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("servers", "addresses"),
    [
        ("external", ["192.168.60.13", "fd00:60::13"]),
        ("ext.lab", ["192.168.60.13", "fd00:60::13"]),
        ("fd00:60::13", ["fd00:60::13"]),
        ("external\nifconfig.me", ["192.168.60.13", "fd00:60::13", "203.0.113.10"]),
    ],
)
def test_servers_by_name_and_by_address(servers: str, addresses: list[str]) -> None:
    assert parse_rules({"allow": "", "servers": servers}, SERVERS).servers == tuple(map(ip_address, addresses))


def test_all_servers_by_default() -> None:
    assert len(parse_rules({"allow": ""}, SERVERS).servers) == 3


@pytest.mark.parametrize(
    ("data", "field", "value"),
    [
        ({"allow": "192.0.2.1\n300.1.1.1"}, "data.allow, line 2", "300.1.1.1"),
        ({"allow": "192.0.2.1/24"}, "data.allow, line 1", "192.0.2.1/24"),
        ({"allow": "", "servers": "nobody"}, "data.servers, line 1", "nobody"),
        ({"allow": "", "action": "ignore"}, "data.action", "ignore"),
        ({"alow": ""}, "data.alow", None),
        ({"nat": "192.0.2.0/24"}, "data.nat, line 1", "192.0.2.0/24"),
        ({"nat": "192.0.2.0/24 fd00::1"}, "data.nat, line 1", "192.0.2.0/24 fd00::1"),
    ],
)
def test_mistakes_are_named(data: dict[str, str], field: str, value: str | None) -> None:
    with pytest.raises(ClusterError) as refusal:
        parse_rules(data, SERVERS)
    assert refusal.value.object == "ConfigMap outside/firewall"
    assert (refusal.value.field, refusal.value.value) == (field, value)


def test_overlapping_sources_become_one_interval() -> None:
    text = ruleset(parse_rules({"allow": "192.0.2.0/24\n192.0.2.7"}, SERVERS))
    assert "192.0.2.0/24" in text
    assert "192.0.2.7" not in text


def test_drop_is_silent() -> None:
    rules = parse_rules({"allow": "", "action": "drop"}, SERVERS)
    assert rules.action is Action.DROP
    assert "reject" not in ruleset(rules)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def test_logged_packets_of_both_families_are_read_back() -> None:
    tcp = struct.pack("!HH", 40000, 80) + bytes(16)
    v4 = bytes([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]) + IPv4Address("192.0.2.1").packed
    v4 += IPv4Address("192.168.60.13").packed + tcp
    v6 = bytes([0x60, 0, 0, 0, 0, 20, 58, 64]) + IPv6Address("fd00::1").packed + IPv6Address("fd00::2").packed
    stream = b""
    for prefix, packet in ((b"accepted\0", v4), (b"refused\0", v6)):
        body = bytes(4) + _attribute(ATTRIBUTE_PREFIX, prefix) + _attribute(ATTRIBUTE_PAYLOAD, packet)
        stream += struct.pack("=IHHII", 16 + len(body), 0x400, 0, 0, 0) + body + bytes(-len(body) % 4)
    assert [str(packet) for packet in parse_messages(stream)] == [
        "accepted tcp 192.0.2.1:40000 -> 192.168.60.13:80",
        "refused icmpv6 fd00::1 -> fd00::2",
    ]


@pytest.mark.parametrize("data", [b"", b"\x45", b"\x60" + bytes(20), b"\x15" * 60])
def test_packets_cut_short_are_nothing(data: bytes) -> None:
    assert parse_packet("accepted", data) is None
