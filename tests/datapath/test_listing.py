"""The listing's text is Cilium's, column for column."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from egresslab.datapath.listing import EgressRow, egress_rows, list_rows, render_egress
from egresslab.datapath.testing import Rig
from egresslab.datapath.values import GatewaySlot, PolicyEntry
from egresslab.errors import DatapathError


def test_columns_are_padded_to_their_longest_cell_and_three() -> None:
    row = EgressRow(SourceIP="192.168.2.23", DestCIDR="192.168.60.13/32", EgressIP="0.0.0.0", GatewayIP="192.168.60.12")
    assert render_egress([row]) == (
        "Source IP      Destination CIDR   Egress IP   Gateway IP\n"
        "192.168.2.23   192.168.60.13/32   0.0.0.0     192.168.60.12\n"
    )


def test_an_empty_map_has_words() -> None:
    assert render_egress([]) == "No entries found."


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_rows_are_the_kernels_in_numeric_order(rig: Rig) -> None:
    node = rig.nodes["gateway"]
    one, two, six = ip_address("10.244.1.9"), ip_address("10.244.1.10"), ip_address("fd00:10:244:1::9")
    node.datapath.slots.replace(
        {
            1: GatewaySlot(node.v4, IPv4Address("172.18.18.12"), None, local=True),
            2: GatewaySlot(IPv4Address("192.168.60.11"), IPv4Address("172.18.18.11")),
            3: GatewaySlot(),
        }
    )
    node.datapath.policy.replace(
        [
            PolicyEntry(six, ip_network("2001:db8::/32"), 1),
            PolicyEntry(two, ip_network("0.0.0.0/0"), 2),
            PolicyEntry(one, ip_network("203.0.113.0/24"), 1, excluded=True),
            PolicyEntry(one, ip_network("0.0.0.0/0"), 1),
            PolicyEntry(two, ip_network("203.0.113.0/24"), 3),
            PolicyEntry(two, ip_network("198.51.100.0/24"), 0),
        ]
    )
    rows = [tuple(row.values()) for row in list_rows(node.datapath.policy, node.datapath.slots)]
    assert rows == [
        ("10.244.1.9", "0.0.0.0/0", "172.18.18.12", "192.168.60.12"),
        ("10.244.1.9", "203.0.113.0/24", "172.18.18.12", "Excluded CIDR"),
        ("10.244.1.10", "0.0.0.0/0", "0.0.0.0", "192.168.60.11"),
        ("10.244.1.10", "198.51.100.0/24", "0.0.0.0", "Not Found"),
        ("10.244.1.10", "203.0.113.0/24", "0.0.0.0", "Not Found"),
        ("fd00:10:244:1::9", "2001:db8::/32", "::", "192.168.60.12"),
    ]
    assert [tuple(row.values()) for row in egress_rows(node.pin_dir)] == rows


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_absent_maps_have_words_too(rig: Rig) -> None:
    with pytest.raises(DatapathError, match="Cannot find egress gateway bpf maps"):
        egress_rows(rig.nodes["gateway"].pin_dir.parent / "nobody")
