"""The tunnel without its device: nothing tells the two ways apart, and what is not beyond doubt takes the device."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from egresslab.datapath.testing import Node, Rig
from egresslab.datapath.values import GatewaySlot, PolicyEntry, Program, Reason, Verdict

from .test_packets import DESTINATIONS, EGRESS, MACS, SLOTS, frames, relaxed
from .traffic import Client, pattern, receive, tcp_server, udp_server
from .worker import Bench
from .wrapping import wrapped

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

SOURCE, GATEWAY = IPv4Address("192.168.60.11"), IPv4Address("192.168.60.12")
TARGET = ip_address("203.0.113.10")
PORT = 8080
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
    chosen = DESTINATIONS[4]
    rows = ((chosen[1], 1), (chosen[2], 2), (chosen[3], 3), (chosen[4], 4))
    node.datapath.slots.replace(SLOTS)
    node.datapath.policy.replace(
        [
            PolicyEntry(pod.v4, ip_network("198.51.100.0/24"), 1),
            *(PolicyEntry(pod.v4, ip_network(address), slot, slot == 1) for address, slot in rows),
        ]
    )
    return node


async def mac_of(node: Node, link: str = "eth0") -> str:
    """The kernel takes a frame for the node's own by this."""
    return str((await node.netlink.link("get", index=node.links[link]))[0].get("address"))


async def test_what_is_unwrapped_here_leaves_as_from_the_device(rig: Rig, bench: Bench, gateway: Node) -> None:
    pod, mac = rig.nodes["source"].pods[0], await mac_of(gateway)

    @relaxed
    @given(frame=frames(4, pod.v4))
    def holds(frame: Packet) -> None:
        inner = bytes(frame)
        expected, verdict = bench.run(Program.FROM_OVERLAY, inner, gateway.overlay)
        whole = wrapped(inner, SOURCE, GATEWAY, mac=mac)
        outcome, reason = bench.unwrap(whole, gateway.links["eth0"])
        if verdict is Reason.TRANSLATED:
            assert (reason, outcome.verdict) == (verdict, expected.verdict)
            assert outcome.frame[14:] == expected.frame[14:]
            assert outcome.mark == expected.mark
        elif verdict is Reason.NO_EGRESS_IP:
            assert (reason, outcome.verdict) == (verdict, Verdict.DROP)
        else:
            assert (reason, outcome.verdict, outcome.frame) == (None, Verdict.PASS, whole)

    holds()


async def test_wrappings_that_are_out_of_the_ordinary_are_the_devices(rig: Rig, bench: Bench, gateway: Node) -> None:
    """Overwritten and cut wrappings: unwrapped only if an honest node's device could have sent them."""
    pod = rig.nodes["source"].pods[0]
    inner = bytes(Ether(**MACS, type=0x0800) / IP(src=str(pod.v4), dst=DESTINATIONS[4][0]) / UDP(sport=7, dport=9))
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
        assert outcome.frame[14:] == expected.frame[14:]
        # The device asks neither for the source port nor for the inner Ethernet addresses.
        assert bytes(raw[14:34]) == whole[14:34]
        assert bytes(raw[36:50]) == whole[36:50]

    holds()


async def test_only_the_underlay_and_the_pods_own_node_are_believed(rig: Rig, bench: Bench, gateway: Node) -> None:
    pod, own = rig.nodes["source"].pods[0], gateway.pods[0]
    steered = bytes(Ether(**MACS, type=0x0800) / IP(src=str(pod.v4), dst=DESTINATIONS[4][0]) / UDP(sport=7, dport=9))
    reply = bytes(Ether(**MACS, type=0x0800) / IP(src=DESTINATIONS[4][0], dst=str(own.v4)) / UDP(sport=9, dport=7))
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
    gateway.datapath.policy.update([PolicyEntry(own.v4, ip_network("198.51.100.0/24"), 2)])
    question = Ether(**MACS, type=0x0800) / IP(src=str(own.v4), dst=DESTINATIONS[4][0]) / UDP(sport=7, dport=9)
    assert bench.run(Program.FROM_POD, bytes(question), own.ifindex)[1] is Reason.STEERED
    outcome, reason = bench.unwrap(wrapped(reply, SOURCE, GATEWAY, mac=mac), eth0)
    assert (outcome.verdict, reason) == (Verdict.REDIRECT, Reason.DELIVERED)
    assert outcome.frame[14:] == reply[14:]
    assert bench.unwrap(wrapped(reply, spare, GATEWAY, mac=mac), eth0)[1] is None


@pytest.mark.parametrize("codepoint", range(4))
async def test_congestion_is_told_across_the_tunnel(rig: Rig, bench: Bench, gateway: Node, codepoint: int) -> None:
    """RFC 6040: the wrapping tells it outside (`peeled` looks); what a router added is for the device to take over."""
    gateway.datapath.policy.update([PolicyEntry(gateway.pods[0].v4, ip_network(f"{DESTINATIONS[4][2]}/32"), 2)])
    own, pod = gateway.pods[0], rig.nodes["source"].pods[0]

    def sent(source: IPv4Address, to: str) -> bytes:
        return bytes(Ether(**MACS, type=0x0800) / IP(src=str(source), dst=to, tos=codepoint) / UDP() / Raw(b"x"))

    outcome, reason = bench.run(Program.FROM_POD, sent(own.v4, DESTINATIONS[4][2]), own.ifindex)
    assert (reason, outcome.frame[15]) == (Reason.STEERED, codepoint)
    arriving = wrapped(sent(pod.v4, DESTINATIONS[4][0]), SOURCE, GATEWAY, mac=await mac_of(gateway))
    assert bench.unwrap(arriving, gateway.links["eth0"])[1] is Reason.TRANSLATED
    congested = IP(arriving[14:])
    congested.tos, congested.chksum = 3, None
    assert bench.unwrap(arriving[:14] + bytes(congested), gateway.links["eth0"])[1] is None


async def device_packets(rig: Rig, node: Node) -> int:
    """Packets that came in through the overlay device."""
    text = await rig.run(node.namespace, "cat", "/proc/net/dev")
    return int(text.split("egress0:")[1].split()[1])


async def test_one_connection_takes_both_ways_and_arrives_whole(rig: Rig) -> None:
    """Small and large parts in turn, both directions: large ones are of several segments and take the device."""
    source, gateway = rig.nodes["source"], rig.nodes["gateway"]
    rig.select(source.pods[0], "0.0.0.0/0", gateway="gateway")
    async with tcp_server(rig, rig.outside, TARGET, PORT) as peers:
        client = await Client.connect(rig, source.pods[0].namespace, TARGET, PORT, source_port=43_000)
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
    assert peers == [gateway.public_v4]


@pytest.mark.parametrize("older", ["source", "gateway"])
async def test_nodes_need_not_agree_on_the_way(rig: Rig, older: str) -> None:
    """One node wraps by itself, the other one through its device, as an older agent's does."""
    source = rig.nodes["source"]
    rig.nodes[older].datapath.configure(rig.nodes[older].config(underlay=None))
    rig.select(source.pods[0], "0.0.0.0/0", gateway="gateway")
    namespace = source.pods[0].namespace
    async with tcp_server(rig, rig.outside, TARGET, PORT), udp_server(rig, rig.outside, TARGET, PORT):
        client = await Client.connect(rig, namespace, TARGET, PORT)
        assert await client.echo() == "hello"
        assert await client.upload(1_000_000)
        assert await client.download(1_000_000)
        await client.close()
        datagrams = rig.socket(namespace, kind=socket.SOCK_DGRAM)
        datagrams.connect((str(TARGET), PORT))
        for size in (1, 1_400, 8_000):
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
