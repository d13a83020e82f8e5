"""Several addresses for one gateway: the next one is used when the ports of those before it run out, in order."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from egresslab.datapath.testing import Rig
from egresslab.datapath.values import GatewaySlot, IPAddress, PolicyEntry, Program, Reason, Verdict
from egresslab.errors import DatapathError

from .model import checksums_are_right
from .test_cases import MACS, OVERLAY, POD, reply
from .traffic import receive, udp_server
from .worker import Bench

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

PORTS = (50_000, 50_003)
SPILL_V4 = tuple(IPv4Address(f"172.18.18.{last}") for last in (210, 211))
SPILL_V6 = tuple(IPv6Address(f"fd00:18::{last}") for last in (210, 211))


@pytest.fixture(scope="module")
def bench(shared_rig: Rig) -> Iterator[Bench]:
    with Bench(shared_rig.nodes["gateway"]) as made:
        yield made


def segment(source: IPAddress, target: IPAddress, port: int, flags: str = "S") -> bytes:
    layer = IP if source.version == 4 else IPv6
    ethernet = Ether(**MACS, type=0x0800 if source.version == 4 else 0x86DD)
    return bytes(ethernet / layer(src=str(source), dst=str(target)) / TCP(sport=port, dport=1234, flags=flags))


def source_of(frame: bytes) -> tuple[IPAddress, int]:
    packet = Ether(frame)
    layer = packet[IP] if IP in packet else packet[IPv6]
    return ip_address(layer.src), layer[TCP].sport


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("program", [POD, OVERLAY], ids=["own pods", "steered"])
async def test_addresses_are_filled_one_after_the_other(rig: Rig, bench: Bench, program: Program, version: int) -> None:
    """Five pods use the same four ports towards one remote: three addresses have room for twelve of twenty."""
    gateway = rig.nodes["gateway"]
    datapath = gateway.datapath
    pod = gateway.pods[0] if program is POD else rig.nodes["source"].pods[0]
    ifindex = pod.ifindex if program is POD else gateway.overlay
    first, target = (pod.v4, "203.0.113.77") if version == 4 else (pod.v6, "2001:db8::77")
    remote = ip_address(target)
    addresses = [first, *(first + number for number in range(100, 104))]
    own: IPAddress = gateway.public_v4 if version == 4 else gateway.public_v6
    spill = SPILL_V4 if version == 4 else SPILL_V6
    rig.select(pod, "0.0.0.0/0", "::/0", gateway="gateway", spill_v4=SPILL_V4, spill_v6=SPILL_V6)
    endpoint = datapath.endpoints.get(first)
    assert endpoint
    for address in addresses[1:]:
        datapath.endpoints.set(address, endpoint)
        datapath.policy.update([PolicyEntry(address, ip_network(target), 1)])
    datapath.configure(gateway.config(ports=PORTS))
    refused = datapath.counters.get(program, Reason.NO_FREE_PORT).packets
    sent: dict[tuple[IPAddress, int], tuple[IPAddress, int]] = {}
    try:
        for address in addresses:
            for port in range(PORTS[0], PORTS[1] + 1):
                outcome, reason = bench.run(program, segment(address, remote, port), ifindex)
                if reason is Reason.TRANSLATED:
                    assert checksums_are_right(outcome.frame)
                    sent[address, port] = source_of(outcome.frame)
                else:
                    assert (outcome.verdict, reason) == (Verdict.DROP, Reason.NO_FREE_PORT)
        assert [used for used, _ in sent.values()] == [own] * 4 + [spill[0]] * 4 + [spill[1]] * 4
        assert len(set(sent.values())) == 12, "no tuple is given twice"
        assert datapath.counters.get(program, Reason.NO_FREE_PORT).packets == refused + 8
        for (address, port), translation in sent.items():
            outcome, reason = bench.run(program, segment(address, remote, port, "A"), ifindex)
            assert (reason, source_of(outcome.frame)) == (Reason.TRANSLATED, translation), "it stays where it is"
            answer, reason = bench.run(Program.FROM_WIRE, reply(*translation, remote), gateway.links["eth1"])
            assert reason is (Reason.DELIVERED if program is POD else Reason.RETURNED)
            assert checksums_are_right(answer.frame)
            assert source_of(answer.frame)[0] == remote
    finally:
        for address in addresses[1:]:
            datapath.endpoints.delete(address)


async def test_a_flow_leaves_an_address_that_its_slot_gave_up(rig: Rig, bench: Bench) -> None:
    gateway = rig.nodes["gateway"]
    pod = gateway.pods[0]
    rig.select(pod, "0.0.0.0/0", gateway="gateway", spill_v4=SPILL_V4)
    gateway.datapath.configure(gateway.config(ports=(50_000, 50_000)))
    target = ip_address("203.0.113.79")
    outcome, _ = bench.run(POD, segment(pod.v4, target, 50_000), pod.ifindex)
    assert source_of(outcome.frame) == (gateway.public_v4, 50_000)
    slot = gateway.datapath.slots.get(1)
    assert slot and slot.spill_v4 == SPILL_V4
    gateway.datapath.slots.set(1, replace(slot, source_v4=SPILL_V4[0], spill_v4=(SPILL_V4[1],)))
    outcome, reason = bench.run(POD, segment(pod.v4, target, 50_000, "A"), pod.ifindex)
    assert (reason, source_of(outcome.frame)) == (Reason.TRANSLATED, (SPILL_V4[0], 50_000))
    gateway.datapath.slots.set(1, replace(slot, source_v4=SPILL_V4[1], spill_v4=(SPILL_V4[0],)))
    outcome, _ = bench.run(POD, segment(pod.v4, target, 50_000, "A"), pod.ifindex)
    assert source_of(outcome.frame) == (SPILL_V4[0], 50_000), "still one of the slot's addresses, though not the first"
    outcome, _ = bench.run(POD, segment(pod.v4, target, 50_000), pod.ifindex)
    assert source_of(outcome.frame) == (SPILL_V4[1], 50_000), "a new connection begins at the first again"


async def test_what_lies_in_the_map_is_what_was_asked(rig: Rig) -> None:
    slots = rig.nodes["spare"].datapath.slots
    value = GatewaySlot(IPv4Address("192.168.60.13"), SPILL_V4[0], SPILL_V6[0], 3, True, spill_v4=SPILL_V4[1:])
    slots.replace({3: value, 4: GatewaySlot(lease=9, reset=True, spill_v6=SPILL_V6)})
    assert dict(slots.items()) == {3: value, 4: GatewaySlot(lease=9, reset=True, spill_v6=SPILL_V6)}
    with pytest.raises(DatapathError, match="too many further sources"):
        slots.set(5, GatewaySlot(spill_v4=tuple(IPv4Address(n) for n in range(1, 9))))


async def test_a_pod_talks_on_when_the_first_address_is_full(rig: Rig) -> None:
    """On the wire: the second address is one that the gateway's kernel has never heard of."""
    gateway, pod = rig.nodes["gateway"], rig.nodes["source"].pods[0]
    rig.select(pod, "0.0.0.0/0", gateway="gateway", spill_v4=SPILL_V4)
    gateway.datapath.configure(gateway.config(ports=(50_000, 50_000)))
    target = ip_address("203.0.113.10")
    mac = (await gateway.netlink.link("get", index=gateway.links["eth1"]))[0].get("address")
    for address in SPILL_V4:
        await rig.run(rig.outside, "ip", "neigh", "replace", str(address), "lladdr", mac, "dev", "eth1")
    async with udp_server(rig, rig.outside, target, 8086) as peers:
        clients = []
        for member, port in ((pod, 50_000), (gateway.pods[0], 50_000)):
            rig.select(member, "0.0.0.0/0", gateway="gateway", spill_v4=SPILL_V4)
            client = rig.socket(member.namespace, socket.AF_INET, socket.SOCK_DGRAM)
            client.bind(("0.0.0.0", port))
            client.connect((str(target), 8086))
            client.send(b"one")
            assert await receive(client) == b"one"
            clients.append(client)
        for client in clients:
            client.send(b"two")
            assert await receive(client) == b"two"
            client.close()
    assert peers == [(gateway.public_v4, 50_000), (SPILL_V4[0], 50_000)] * 2
