"""ICMP errors reach whom they concern: path MTU both ways, time exceeded, unreachable ports."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import ip_address

import pytest

from egresslab.datapath.testing import Node, Pod, Rig
from egresslab.datapath.values import IPAddress, Program, Reason

from .traffic import Capture, Client, eventually, family_of, receive, tcp_server, udp_server

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

TARGETS = [ip_address("203.0.113.10"), ip_address("2001:db8:113::10")]
PORT = 8081
OVERLAY_MTU = 1450
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24
both_families = pytest.mark.parametrize("target", TARGETS, ids=["ipv4", "ipv6"])
both_places = pytest.mark.parametrize("where", ["source", "gateway"], ids=["remote", "local"])


def selected(rig: Rig, where: str) -> tuple[Pod, Node]:
    pod = rig.nodes[where].pods[0]
    rig.select(pod, "0.0.0.0/0", "::/0", gateway="gateway")
    return pod, rig.nodes["gateway"]


def datagram(rig: Rig, namespace: str, target: IPAddress, *, fragment: bool = False) -> socket.socket:
    made = rig.socket(namespace, family_of(target), socket.SOCK_DGRAM)
    if not fragment:
        if target.version == 4:
            made.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
    return made


def path_mtu(made: socket.socket) -> int:
    if made.family == socket.AF_INET:
        return made.getsockopt(socket.IPPROTO_IP, IP_MTU)
    return made.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


async def flush_learned(rig: Rig, pod: Pod) -> None:
    """Forget path MTUs that earlier tests taught the pod and outside."""
    for namespace in (pod.namespace, rig.outside):
        for family in ("-4", "-6"):
            await rig.run(namespace, "ip", family, "route", "flush", "cache")


@both_families
async def test_a_pod_learns_the_tunnels_mtu(rig: Rig, target: IPAddress) -> None:
    pod, _ = selected(rig, "source")
    await flush_learned(rig, pod)
    client = datagram(rig, pod.namespace, target)
    client.connect((str(target), PORT))
    assert path_mtu(client) == 1500
    client.send(bytes(1_440))
    with pytest.raises(OSError) as caught:
        await receive(client)
    assert caught.value.errno == errno.EMSGSIZE
    assert path_mtu(client) == OVERLAY_MTU
    client.close()


@both_families
async def test_outside_learns_the_tunnels_mtu(rig: Rig, target: IPAddress) -> None:
    """A reply that does not fit the tunnel is answered in the name of the egress address."""
    pod, gateway = selected(rig, "source")
    await flush_learned(rig, pod)
    server = datagram(rig, rig.outside, target)
    server.bind((str(target), PORT))
    client = datagram(rig, pod.namespace, target)
    client.connect((str(target), PORT))
    client.send(b"ask")
    peer = (await _receive_from(server))[1]
    assert ip_address(peer[0]) == (gateway.public_v4 if target.version == 4 else gateway.public_v6)
    server.connect(peer)
    assert path_mtu(server) == 1500
    before = gateway.datapath.counters.get(Program.FROM_WIRE, Reason.TOO_BIG).packets
    server.send(bytes(1_440))
    try:
        data = await receive(server)
    except TimeoutError:
        answered = gateway.datapath.counters.get(Program.FROM_WIRE, Reason.TOO_BIG).packets - before
        pytest.fail(f"no error came back; the gateway answered {answered} packets with one")
    except OSError as error:
        assert error.errno == errno.EMSGSIZE
    else:
        pytest.fail(f"a datagram of {len(data)} bytes came in place of an error")
    assert path_mtu(server) == OVERLAY_MTU
    server.send(bytes(1_400))
    assert await receive(client) == bytes(1_400)
    server.close()
    client.close()


@both_families
async def test_connections_never_need_to_learn_it(rig: Rig, target: IPAddress) -> None:
    pod, gateway = selected(rig, "source")
    await flush_learned(rig, pod)
    source, back = pod.node.datapath.counters, gateway.datapath.counters
    before = (
        source.get(Program.FROM_POD, Reason.TOO_BIG).packets,
        back.get(Program.FROM_WIRE, Reason.TOO_BIG).packets,
    )
    async with tcp_server(rig, rig.outside, target, PORT):
        client = await Client.connect(rig, pod.namespace, target, PORT)
        assert await client.download(500_000)
        assert await client.upload(500_000)
        await client.close()
    assert before == (
        source.get(Program.FROM_POD, Reason.TOO_BIG).packets,
        back.get(Program.FROM_WIRE, Reason.TOO_BIG).packets,
    )


@both_places
@both_families
async def test_a_closed_port_is_refused_not_silent(rig: Rig, target: IPAddress, where: str) -> None:
    """The error quotes the translated packet; the pod must recognise its own."""
    pod, _ = selected(rig, where)
    client = datagram(rig, pod.namespace, target, fragment=True)
    client.connect((str(target), PORT + 1))
    client.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        await receive(client)
    client.close()


@both_families
async def test_an_error_of_the_pod_reaches_outside(rig: Rig, target: IPAddress) -> None:
    """The pod closed its socket: the late reply is answered, from the egress address, about the right ports."""
    pod, _ = selected(rig, "source")
    server = datagram(rig, rig.outside, target, fragment=True)
    server.bind((str(target), PORT))
    client = datagram(rig, pod.namespace, target, fragment=True)
    client.connect((str(target), PORT))
    client.send(b"ask and go")
    peer = (await _receive_from(server))[1]
    client.close()
    server.connect(peer)
    server.send(b"late")
    with pytest.raises(ConnectionRefusedError):
        await receive(server)
    server.close()


@both_places
@both_families
async def test_the_gateway_is_a_hop(rig: Rig, target: IPAddress, where: str) -> None:
    pod, gateway = selected(rig, where)
    output = await rig.run(pod.namespace, "ping", "-c", "1", "-W", "2", "-t", "1", str(target), check=False)
    hop = gateway.v4 if target.version == 4 else gateway.v6
    assert str(hop) in output
    assert "exceeded" in output.lower()


async def test_outside_errors_reveal_nothing_of_the_pod(rig: Rig) -> None:
    pod, gateway = selected(rig, "source")
    with Capture(rig, rig.outside, "eth0", "eth1") as capture:
        async with udp_server(rig, rig.outside, TARGETS[0], PORT) as peers:
            client = datagram(rig, pod.namespace, TARGETS[0], fragment=True)
            client.connect((str(TARGETS[0]), PORT))
            client.send(b"x")
            await receive(client)
            client.close()
            await eventually(lambda: len(peers) == 1, "the server heard the datagram")
        assert gateway.public_v4 in capture.sources()
        assert pod.v4 not in capture.sources()


async def _receive_from(made: socket.socket) -> tuple[bytes, tuple[str, int]]:
    data, peer = await asyncio.wait_for(asyncio.get_running_loop().sock_recvfrom(made, 65_535), 5)
    return data, peer
