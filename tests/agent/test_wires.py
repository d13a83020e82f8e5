"""What programs were told of an interface follows the interface: here its MAC, with which they answer for addresses."""

from __future__ import annotations

import asyncio
import secrets
import socket
from ipaddress import ip_address

import pytest

from egresslab.agent.interfaces import read_interfaces
from egresslab.agent.links import Wires
from egresslab.datapath.testing import Rig
from egresslab.datapath.values import Announced, IPAddress
from tests.datapath.leasing import LEASE, VOTER, grant

pytestmark = pytest.mark.root

VIRTUAL = (ip_address("172.18.18.210"), ip_address("fd00:18::210"))
DISCARD = 9
PATIENCE_S = 10.0


@pytest.fixture
def new_mac() -> str:
    return f"02:{secrets.token_bytes(5).hex(':')}"


async def mac_outside(rig: Rig, address: IPAddress) -> str:
    """With which MAC outside reaches the address, asked anew."""
    await rig.run(rig.outside, "ip", "neigh", "flush", "to", str(address), "nud", "all")
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with rig.socket(rig.outside, family, socket.SOCK_DGRAM) as asking:
        asking.sendto(b"who has it?", (str(address), DISCARD))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            words = (await rig.run(rig.outside, "ip", "neigh", "show", "to", str(address))).split()
            if "lladdr" in words:
                return words[words.index("lladdr") + 1]
            await asyncio.sleep(0.01)


async def test_addresses_are_answered_for_with_the_mac_that_the_interface_has_now(new_mac: str) -> None:
    async with Rig("voter", "gateway") as rig:
        node, index = rig.nodes["gateway"], rig.nodes["gateway"].links["eth1"]
        leases, wires = node.datapath.leases, Wires(node.attachments)
        await wires.set(await read_interfaces(node.netlink))
        leases.set_voters([VOTER])
        leases.make_lease(LEASE)
        grant(node, 60_000)
        for address in VIRTUAL:
            leases.announce(address, index, Announced(LEASE))
        before = (await node.netlink.link("get", index=index))[0].get("address")
        assert [await mac_outside(rig, address) for address in VIRTUAL] == [before, before]

        await node.netlink.link("set", index=index, address=new_mac)
        await wires.set(await read_interfaces(node.netlink))
        assert [await mac_outside(rig, address) for address in VIRTUAL] == [new_mac, new_mac]
