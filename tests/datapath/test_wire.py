"""Traffic on the wire: pods reach outside through their gateway, and outside sees only the egress address."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import ip_address

import pytest

from egresslab.datapath.testing import Node, Pod, Rig
from egresslab.datapath.values import IPAddress, Program, Reason

from .traffic import Capture, Client, checksum_offload, family_of, receive, tcp_server, udp_server

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

TARGETS = [ip_address("203.0.113.10"), ip_address("2001:db8:113::10")]
PORT = 8080
both_families = pytest.mark.parametrize("target", TARGETS, ids=["ipv4", "ipv6"])
both_places = pytest.mark.parametrize("where", ["source", "gateway"], ids=["remote", "local"])


def selected(rig: Rig, where: str) -> tuple[Pod, Node]:
    """A pod of a node whose everything leaves through the gateway's public interface."""
    pod = rig.nodes[where].pods[0]
    rig.select(pod, "0.0.0.0/0", "::/0", gateway="gateway")
    return pod, rig.nodes["gateway"]


def egress(node: Node, target: IPAddress) -> IPAddress:
    return node.public_v4 if target.version == 4 else node.public_v6


def foreign(capture: Capture, pod: Pod, node: Node) -> set[IPAddress]:
    """Sources that give the pod or its node away."""
    return capture.sources() & {*pod.addresses, pod.node.v4, pod.node.v6}


async def learn_path_mtu(client: socket.socket, size: int) -> None:
    """IPv6 has no fragmentation on the way: each side's first large datagram only teaches it the tunnel's MTU."""
    for _ in range(5):
        try:
            client.send(bytes(size))
            await receive(client, timeout=0.5)
            return
        except TimeoutError:
            continue
        except OSError as error:
            assert error.errno == errno.EMSGSIZE
    raise AssertionError("no path MTU was learned")


@both_places
@both_families
async def test_large_transfers_arrive_whole_from_the_egress_address(rig: Rig, target: IPAddress, where: str) -> None:
    pod, gateway = selected(rig, where)
    async with tcp_server(rig, rig.outside, target, PORT) as peers:
        with Capture(rig, rig.outside, "eth0", "eth1") as capture:
            client = await Client.connect(rig, pod.namespace, target, PORT)
            assert await client.download(20_000_000)
            assert await client.upload(20_000_000)
            await client.close()
            assert peers == [egress(gateway, target)]
            assert egress(gateway, target) in capture.sources()
            assert not foreign(capture, pod, gateway)


@both_places
@both_families
async def test_checksums_that_the_gateways_card_would_compute(rig: Rig, target: IPAddress, where: str) -> None:
    """A pod's packet carries only its pseudo header's sum until a device completes it: here the wires do, in software,
    and outside checks. The same for replies on their way in."""
    pod, gateway = selected(rig, where)
    wires = [(gateway.namespace, "eth1"), (gateway.namespace, "eth0"), (rig.outside, "eth1"), (rig.outside, "eth0")]
    for namespace, interface in wires:
        checksum_offload(rig, namespace, interface, enabled=False)
    try:
        async with tcp_server(rig, rig.outside, target, PORT), udp_server(rig, rig.outside, target, PORT):
            client = await Client.connect(rig, pod.namespace, target, PORT)
            assert await client.download(300_000)
            assert await client.upload(300_000)
            await client.close()
            datagram = rig.socket(pod.namespace, family_of(target), socket.SOCK_DGRAM)
            datagram.connect((str(target), PORT))
            datagram.send(b"summed")
            assert await receive(datagram) == b"summed"
            datagram.close()
        assert "1 received" in await rig.run(pod.namespace, "ping", "-c", "1", "-W", "2", str(target))
    finally:
        for namespace, interface in wires:
            checksum_offload(rig, namespace, interface, enabled=True)


@both_places
async def test_short_connections(rig: Rig, where: str) -> None:
    pod, gateway = selected(rig, where)
    target = TARGETS[0]
    async with tcp_server(rig, rig.outside, target, PORT) as peers:

        async def one(number: int) -> str:
            client = await Client.connect(rig, pod.namespace, target, PORT)
            try:
                return await client.echo(str(number))
            finally:
                await client.close()

        for start in range(0, 100, 20):
            answers = await asyncio.gather(*(one(number) for number in range(start, start + 20)))
            assert answers == [str(number) for number in range(start, start + 20)]
    assert set(peers) == {gateway.public_v4}
    assert len(peers) == 100


@both_places
@both_families
@pytest.mark.parametrize("size", [100, 8_000], ids=["whole", "fragmented"])
async def test_datagrams_both_ways(rig: Rig, target: IPAddress, where: str, size: int) -> None:
    pod, gateway = selected(rig, where)
    async with udp_server(rig, rig.outside, target, PORT) as peers:
        client = rig.socket(pod.namespace, family_of(target), socket.SOCK_DGRAM)
        client.connect((str(target), PORT))
        if size > 1_400:
            await learn_path_mtu(client, size)
        for number in range(3):
            data = bytes([number]) * size
            client.send(data)
            assert await receive(client) == data
        client.close()
    assert {address for address, _ in peers} == {egress(gateway, target)}


@both_places
@both_families
async def test_ping(rig: Rig, target: IPAddress, where: str) -> None:
    pod, _ = selected(rig, where)
    output = await rig.run(pod.namespace, "ping", "-c", "2", "-i", "0.1", "-W", "2", "-s", "3000", str(target))
    assert "2 received" in output


async def test_two_pods_with_one_source_port_get_two_egress_ports(rig: Rig) -> None:
    first, _ = selected(rig, "source")
    second, gateway = selected(rig, "gateway")
    target = TARGETS[0]
    async with udp_server(rig, rig.outside, target, PORT) as peers:
        for pod in (first, second):
            client = rig.socket(pod.namespace, socket.AF_INET, socket.SOCK_DGRAM)
            client.bind(("0.0.0.0", 40_000))
            client.connect((str(target), PORT))
            client.send(pod.name.encode())
            assert await receive(client) == pod.name.encode()
            client.close()
    assert {address for address, _ in peers} == {gateway.public_v4}
    assert len({port for _, port in peers}) == 2
    assert 40_000 in {port for _, port in peers}


async def test_replies_of_inbound_connections_are_not_steered(rig: Rig) -> None:
    pod, _ = selected(rig, "source")
    await rig.run(rig.outside, "ip", "route", "replace", f"{pod.v4}/32", "via", str(pod.node.v4))
    try:
        async with tcp_server(rig, pod.namespace, pod.v4, PORT) as peers:
            client = await Client.connect(rig, rig.outside, pod.v4, PORT)
            assert await client.echo("in") == "in"
            assert await client.download(1_000_000)
            await client.close()
        assert peers == [rig.OUTSIDE_V4]
        async with udp_server(rig, pod.namespace, pod.v4, PORT):
            probe = rig.socket(rig.outside, socket.AF_INET, socket.SOCK_DGRAM)
            probe.connect((str(pod.v4), PORT))
            probe.send(b"in")
            assert await receive(probe) == b"in"
            probe.close()
        assert "1 received" in await rig.run(rig.outside, "ping", "-c", "1", "-W", "2", str(pod.v4))
    finally:
        await rig.run(rig.outside, "ip", "route", "del", f"{pod.v4}/32")


async def test_a_virtual_address_that_no_kernel_owns(rig: Rig) -> None:
    pod = rig.nodes["source"].pods[0]
    gateway = rig.nodes["gateway"]
    virtual = ip_address("172.18.18.200")
    rig.select(pod, "0.0.0.0/0", gateway="gateway", source_v4=virtual, source_v6=None)
    link = (await gateway.netlink.link("get", index=gateway.links["eth1"]))[0]
    neighbour = ("ip", "neigh", "replace", str(virtual), "lladdr", link.get("address"), "dev", "eth1")
    await rig.run(rig.outside, *neighbour)
    async with tcp_server(rig, rig.outside, TARGETS[0], PORT) as peers:
        client = await Client.connect(rig, pod.namespace, TARGETS[0], PORT)
        assert await client.download(1_000_000)
        await client.close()
    assert peers == [virtual]


async def test_the_nodes_own_traffic_shares_the_egress_address(rig: Rig) -> None:
    """The node's socket and a pod's flow want the same tuple: both work, on two ports."""
    pod, gateway = selected(rig, "source")
    target = ip_address("172.18.18.1")
    async with udp_server(rig, rig.outside, target, PORT) as peers:
        inner = rig.socket(pod.namespace, socket.AF_INET, socket.SOCK_DGRAM)
        inner.bind(("0.0.0.0", 41_000))
        inner.connect((str(target), PORT))
        inner.send(b"pod")
        assert await receive(inner) == b"pod"
        own = rig.socket(gateway.namespace, socket.AF_INET, socket.SOCK_DGRAM)
        own.bind((str(gateway.public_v4), 41_000))
        own.connect((str(target), PORT))
        own.send(b"node")
        assert await receive(own) == b"node"
        inner.send(b"pod again")
        assert await receive(inner) == b"pod again"
        inner.close()
        own.close()
    assert {address for address, _ in peers} == {gateway.public_v4}
    assert len({port for _, port in peers}) == 2


async def test_counters_and_events_tell_what_happened(rig: Rig) -> None:
    pod, gateway = selected(rig, "source")
    gateway.datapath.flows.read(lambda _: None)
    before = gateway.datapath.counters.get(Program.FROM_OVERLAY, Reason.TRANSLATED).packets
    async with tcp_server(rig, rig.outside, TARGETS[0], PORT):
        client = await Client.connect(rig, pod.namespace, TARGETS[0], PORT, source_port=42_000)
        await client.echo()
        await client.close()
    events = []

    async def closed() -> None:
        async for event in gateway.datapath.flows:
            events.append(event)
            if event.event.name == "CLOSED":
                return

    await asyncio.wait_for(closed(), 5)
    assert [event.event.name for event in events] == ["OPENED", "CLOSED"]
    assert (events[0].pod, events[0].pod_port, events[0].egress) == (pod.v4, 42_000, gateway.public_v4)
    assert events[0].node == pod.node.v4
    assert gateway.datapath.counters.get(Program.FROM_OVERLAY, Reason.TRANSLATED).packets >= before + 4
