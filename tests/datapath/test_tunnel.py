"""The tunnel without its device: nothing tells the two ways apart, and what is not beyond doubt takes the device."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from egresslab.datapath.testing import Node, Pod, Rig
from egresslab.datapath.values import GatewaySlot, IPAddress, PolicyEntry, Program, Reason, Underlay, Verdict

from .test_packets import DESTINATIONS, EGRESS, MACS, SLOTS, frames, relaxed
from .traffic import Client, family_of, pattern, receive, tcp_server, udp_server
from .worker import Bench
from .wrapping import wrapped

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

SOURCE, GATEWAY = IPv4Address("192.168.60.11"), IPv4Address("192.168.60.12")
TARGETS = {4: ip_address("203.0.113.10"), 6: ip_address("2001:db8:113::10")}
PORT = 8080
TYPES = {4: 0x0800, 6: 0x86DD}
WIDE = {4: "198.51.100.0/24", 6: "2001:db8:1::/64"}
both_families = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
MARKED = st.integers(14, 63)
"""Bytes of the wrapping in a frame."""


@pytest.fixture(scope="module")
def bench(shared_rig: Rig) -> Iterator[Bench]:
    with Bench(shared_rig.nodes["gateway"]) as made:
        yield made


@pytest.fixture
def gateway(rig: Rig) -> Node:
    """A gateway for the pod of the other node, to some destinations."""
    node, pod = rig.nodes["gateway"], rig.nodes["source"].pods[0]
    node.datapath.slots.replace(SLOTS)
    entries = []
    for address in pod.addresses:
        chosen = DESTINATIONS[address.version]
        rows = ((chosen[1], 1), (chosen[2], 2), (chosen[3], 3), (chosen[4], 4))
        entries.append(PolicyEntry(address, ip_network(WIDE[address.version]), 1))
        entries += (PolicyEntry(address, ip_network(to), slot, slot == 1) for to, slot in rows)
    node.datapath.policy.replace(entries)
    return node


def address_of(pod: Pod, version: int) -> IPAddress:
    return pod.v4 if version == 4 else pod.v6


def framed(source: IPAddress | str, to: IPAddress | str, above: Packet, codepoint: int = 0) -> bytes:
    """An Ethernet frame; `codepoint` is of explicit congestion notification (RFC 3168)."""
    version = ip_address(str(source)).version
    network = (
        IP(src=str(source), dst=str(to), tos=codepoint)
        if version == 4
        else IPv6(src=str(source), dst=str(to), tc=codepoint)
    )
    return bytes(Ether(**MACS, type=TYPES[version]) / network / above)


async def mac_of(node: Node, link: str = "eth0") -> str:
    """The kernel takes a frame for the node's own by this."""
    return str((await node.netlink.link("get", index=node.links[link]))[0].get("address"))


@both_families
async def test_what_is_unwrapped_here_leaves_as_from_the_device(
    rig: Rig, bench: Bench, gateway: Node, version: int
) -> None:
    pod, mac = rig.nodes["source"].pods[0], await mac_of(gateway)

    @relaxed
    @given(frame=frames(version, address_of(pod, version)))
    def holds(frame: Packet) -> None:
        inner = bytes(frame)
        expected, verdict = bench.run(Program.FROM_OVERLAY, inner, gateway.overlay)
        whole = wrapped(inner, SOURCE, GATEWAY, mac=mac)
        outcome, reason = bench.unwrap(whole, gateway.links["eth0"])
        if verdict is Reason.TRANSLATED:
            assert (reason, outcome.verdict) == (verdict, expected.verdict)
            assert outcome.frame[12:] == expected.frame[12:]
            assert outcome.mark == expected.mark
        elif verdict is Reason.NO_EGRESS_IP:
            assert (reason, outcome.verdict) == (verdict, Verdict.DROP)
        else:
            assert (reason, outcome.verdict, outcome.frame) == (None, Verdict.PASS, whole)

    holds()


@both_families
async def test_wrappings_that_are_out_of_the_ordinary_are_the_devices(
    rig: Rig, bench: Bench, gateway: Node, version: int
) -> None:
    """Overwritten and cut wrappings: unwrapped only if an honest node's device could have sent them."""
    pod = rig.nodes["source"].pods[0]
    inner = framed(address_of(pod, version), DESTINATIONS[version][0], UDP(sport=7, dport=9))
    expected, _ = bench.run(Program.FROM_OVERLAY, inner, gateway.overlay)
    whole = wrapped(inner, SOURCE, GATEWAY, mac=await mac_of(gateway))
    assert bench.unwrap(whole, gateway.links["eth0"])[1] is Reason.TRANSLATED

    @relaxed
    @given(changes=st.lists(st.tuples(MARKED, st.integers(0, 255)), max_size=3), length=st.integers(34, len(whole) + 9))
    def holds(changes: list[tuple[int, int]], length: int) -> None:
        raw = bytearray(whole.ljust(length, b"\0")[:length])
        for offset, value in changes:
            if offset < len(raw):
                raw[offset] = value
        outcome, reason = bench.unwrap(bytes(raw), gateway.links["eth0"])
        if reason is None:
            assert (outcome.verdict, outcome.frame) == (Verdict.PASS, bytes(raw))
            return
        assert reason is Reason.TRANSLATED
        assert outcome.frame[12:] == expected.frame[12:]
        # The device asks neither for the source port nor for the inner Ethernet addresses.
        assert bytes(raw[14:34]) == whole[14:34]
        assert bytes(raw[36:50]) == whole[36:50]

    holds()


@both_families
async def test_only_the_underlay_and_the_pods_own_node_are_believed(
    rig: Rig, bench: Bench, gateway: Node, version: int
) -> None:
    far, own = DESTINATIONS[version][0], gateway.pods[0]
    asking = address_of(own, version)
    steered = framed(address_of(rig.nodes["source"].pods[0], version), far, UDP(sport=7, dport=9))
    reply = framed(far, asking, UDP(sport=9, dport=7))
    eth0, eth1 = gateway.links["eth0"], gateway.links["eth1"]
    spare, mac = rig.nodes["spare"].v4, await mac_of(gateway)
    assert bench.unwrap(wrapped(steered, SOURCE, GATEWAY, mac=mac), eth0)[1] is Reason.TRANSLATED
    for frame, link in (
        (wrapped(steered, SOURCE, GATEWAY, mac=await mac_of(gateway, "eth1")), eth1),
        (wrapped(steered, SOURCE, GATEWAY), eth0),
        (wrapped(steered, spare, GATEWAY, mac=mac), eth0),
        (wrapped(steered, SOURCE, spare, mac=mac), eth0),
        (wrapped(reply, SOURCE, GATEWAY, mac=mac), eth0),
    ):
        outcome, reason = bench.unwrap(frame, link)
        assert (outcome.verdict, reason, outcome.frame) == (Verdict.PASS, None, frame)

    # A reply is for who asked, from where its question was steered to.
    gateway.datapath.slots.set(2, GatewaySlot(SOURCE))
    gateway.datapath.policy.update([PolicyEntry(asking, ip_network(WIDE[version]), 2)])
    question = framed(asking, far, UDP(sport=7, dport=9))
    assert bench.run(Program.FROM_POD, question, own.ifindex)[1] is Reason.STEERED
    outcome, reason = bench.unwrap(wrapped(reply, SOURCE, GATEWAY, mac=mac), eth0)
    assert (outcome.verdict, reason) == (Verdict.REDIRECT, Reason.DELIVERED)
    assert outcome.frame[12:] == reply[12:]
    assert bench.unwrap(wrapped(reply, spare, GATEWAY, mac=mac), eth0)[1] is None


@pytest.mark.parametrize("codepoint", range(4))
@both_families
async def test_congestion_is_told_across_the_tunnel(
    rig: Rig, bench: Bench, gateway: Node, version: int, codepoint: int
) -> None:
    """RFC 6040: the wrapping tells it outside (`peeled` looks); what a router added is for the device to take over."""
    own, pod = gateway.pods[0], rig.nodes["source"].pods[0]
    elsewhere = DESTINATIONS[version][2]
    gateway.datapath.policy.update([PolicyEntry(address_of(own, version), ip_network(elsewhere), 2)])
    sent = framed(address_of(own, version), elsewhere, UDP() / Raw(b"x"), codepoint)
    outcome, reason = bench.run(Program.FROM_POD, sent, own.ifindex)
    assert (reason, outcome.frame[14:16]) == (Reason.STEERED, sent[14:16])
    inner = framed(address_of(pod, version), DESTINATIONS[version][0], UDP() / Raw(b"x"), codepoint)
    arriving = wrapped(inner, SOURCE, GATEWAY, mac=await mac_of(gateway))
    assert bench.unwrap(arriving, gateway.links["eth0"])[1] is Reason.TRANSLATED
    congested = IP(arriving[14:])
    congested.tos, congested.chksum = 3, None
    assert bench.unwrap(arriving[:14] + bytes(congested), gateway.links["eth0"])[1] is None


@both_families
async def test_a_card_is_told_of_the_wrapping_and_sends_the_same(
    rig: Rig, bench: Bench, gateway: Node, version: int
) -> None:
    """Where the underlay is no veth, the kernel makes the wrapping's room and marks the packet as encapsulated."""
    own, elsewhere = gateway.pods[0], DESTINATIONS[version][2]
    gateway.datapath.policy.update([PolicyEntry(address_of(own, version), ip_network(elsewhere), 2)])
    sent = framed(address_of(own, version), elsewhere, UDP(sport=7, dport=9) / Raw(b"data"))
    for veth in (True, False):
        gateway.datapath.configure(gateway.config(underlay=Underlay(gateway.links["eth0"], veth=veth)))
        outcome, reason = bench.run(Program.FROM_POD, sent, own.ifindex)
        assert (reason, outcome.verdict) == (Reason.STEERED, Verdict.REDIRECT)
        assert bench.wrapped
        assert outcome.frame == sent


async def device_packets(rig: Rig, node: Node) -> int:
    """Packets that came in through the overlay device."""
    text = await rig.run(node.namespace, "cat", "/proc/net/dev")
    return int(text.split("egress0:")[1].split()[1])


@both_families
async def test_one_connection_takes_both_ways_and_arrives_whole(rig: Rig, version: int) -> None:
    """Small and large parts in turn, both directions: large ones are of several segments and take the device."""
    source, gateway, target = rig.nodes["source"], rig.nodes["gateway"], TARGETS[version]
    rig.select(source.pods[0], "0.0.0.0/0", "::/0", gateway="gateway")
    async with tcp_server(rig, rig.outside, target, PORT) as peers:
        client = await Client.connect(rig, source.pods[0].namespace, target, PORT, source_port=43_000)
        before = [await device_packets(rig, node) for node in (gateway, source)]
        for number in range(20):
            assert await client.echo(f"small {number}") == f"small {number}"
        assert [await device_packets(rig, node) for node in (gateway, source)] == before
        for size in (100_000, 1, 1_500, 300_000, 17, 3_000_000):
            assert await client.upload(size)
            assert await client.download(size)
            assert await client.echo() == "hello"
        after = [await device_packets(rig, node) for node in (gateway, source)]
        assert after[0] > before[0]
        assert after[1] > before[1]
        await client.close()
    assert peers == [gateway.public_v4 if version == 4 else gateway.public_v6]


@pytest.mark.parametrize("older", ["source", "gateway"])
@both_families
async def test_nodes_need_not_agree_on_the_way(rig: Rig, version: int, older: str) -> None:
    """One node wraps by itself, the other one through its device, as an older agent's does."""
    source, target = rig.nodes["source"], TARGETS[version]
    rig.nodes[older].datapath.configure(rig.nodes[older].config(underlay=None))
    rig.select(source.pods[0], "0.0.0.0/0", "::/0", gateway="gateway")
    namespace = source.pods[0].namespace
    async with tcp_server(rig, rig.outside, target, PORT), udp_server(rig, rig.outside, target, PORT):
        client = await Client.connect(rig, namespace, target, PORT)
        assert await client.echo() == "hello"
        assert await client.upload(1_000_000)
        assert await client.download(1_000_000)
        await client.close()
        datagrams = rig.socket(namespace, family_of(target), socket.SOCK_DGRAM)
        datagrams.connect((str(target), PORT))
        # IPv6 is not fragmented on the way; each side would have to learn the path's MTU first.
        for size in (1, 1_400, 8_000) if version == 4 else (1, 1_400):
            datagrams.send(pattern(size))
            assert await receive(datagrams) == pattern(size)
        datagrams.close()


async def test_flags_of_congested_connections_end_them_too(rig: Rig, bench: Bench, gateway: Node) -> None:
    """CWR and ECE are TCP flags that say nothing of a connection's end; the bits above FIN to URG are not theirs."""
    pod = rig.nodes["source"].pods[0]

    def segment(flags: str, back: bool = False) -> bytes:
        far, near = DESTINATIONS[4][0], str(EGRESS[4] if back else pod.v4)
        ports = {"sport": 80, "dport": 5555} if back else {"sport": 5555, "dport": 80}
        network = IP(src=far, dst=near) if back else IP(src=near, dst=far)
        return bytes(Ether(**MACS, type=0x0800) / network / TCP(**ports, flags=flags))

    gateway.datapath.flows.read(lambda _: None)
    events = []
    for flags in ("SEC", "AC", "FAC"):
        bench.run(Program.FROM_OVERLAY, segment(flags), gateway.overlay)
    bench.run(Program.FROM_WIRE, segment("FAE", back=True), gateway.links["eth0"])
    gateway.datapath.flows.read(lambda event: events.append(event.event.name))
    assert events == ["OPENED", "CLOSED"]


NEIGHBOUR = {"base_reachable_time_ms": 300, "delay_first_probe_time": 1, "retrans_time_ms": 100}
"""How soon a neighbour that no longer answers is looked for again (arp(7)); by default half a minute and more."""


async def neighbour_settings(rig: Rig, namespace: str, wanted: dict[str, int]) -> dict[str, int]:
    """Set them for eth0, and return what they were."""
    before = {}
    for key, value in wanted.items():
        file = f"/proc/sys/net/ipv4/neigh/eth0/{key}"
        before[key] = int(await rig.run(namespace, "sh", "-c", f"cat {file}; echo {value} > {file}"))
    return before


@pytest.mark.parametrize("changed", ["gateway", "source"])
async def test_a_node_that_has_another_mac_is_found_again(rig: Rig, changed: str) -> None:
    """As after a node was replaced: the same address, another card, and no word of its own. Programs keep no MAC of a
    neighbour, they send through the kernel's table."""
    source, gateway = rig.nodes["source"], rig.nodes["gateway"]
    node, peer = (gateway, source) if changed == "gateway" else (source, gateway)
    rig.select(source.pods[0], "0.0.0.0/0", gateway="gateway")
    before = await neighbour_settings(rig, peer.namespace, NEIGHBOUR)
    # A neighbour that is known keeps the time that it was given.
    await rig.run(peer.namespace, "ip", "neigh", "flush", "dev", "eth0")
    mac = await mac_of(node)
    try:
        async with udp_server(rig, rig.outside, TARGETS[4], PORT) as peers:
            client = rig.socket(source.pods[0].namespace, socket.AF_INET, socket.SOCK_DGRAM)
            client.connect((str(TARGETS[4]), PORT))
            client.send(b"before")
            assert await receive(client) == b"before"
            unwrapped = [await device_packets(rig, each) for each in (source, gateway)]
            await node.netlink.link("set", index=node.links["eth0"], address=f"02:{secrets.token_bytes(5).hex(':')}")
            async with asyncio.timeout(20):
                while True:
                    client.send(b"after")
                    with suppress(TimeoutError):
                        assert await receive(client, timeout=0.2) == b"after"
                        break
            client.close()
            assert [await device_packets(rig, each) for each in (source, gateway)] == unwrapped
        assert {address for address, _ in peers} == {gateway.public_v4}
    finally:
        await node.netlink.link("set", index=node.links["eth0"], address=mac)
        await neighbour_settings(rig, peer.namespace, before)
        for namespace in (rig.outside, *(each.namespace for each in rig.nodes.values())):
            await rig.run(namespace, "ip", "neigh", "flush", "dev", "eth0")
