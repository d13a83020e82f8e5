"""A gateway whose source address changed with the node tells TCP that it cannot go on, as a closed port would."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from egresslab.datapath.testing import Node, Pod, Rig
from egresslab.datapath.values import GatewaySlot, IPAddress, Reason, Verdict

from .leasing import LEASE, grant, lead_to
from .model import checksums_are_right
from .test_cases import OVERLAY, POD
from .traffic import Client, checksum_offload, tcp_server
from .worker import Bench

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

TARGET = ip_address("203.0.113.10")


async def unknown_connection(rig: Rig, where: str, target: IPAddress, reset: bool) -> tuple[Pod, Client]:
    """An established connection whose gateway has just lost its memory."""
    gateway, pod = rig.nodes["gateway"], rig.nodes[where].pods[0]
    gateway.datapath.slots.set(
        1,
        GatewaySlot(
            source_v4=gateway.public_v4,
            source_v6=gateway.public_v6,
            ifindex=gateway.links["eth1"],
            lease=LEASE,
            reset=reset,
        ),
    )
    grant(gateway, 60_000)
    lead_to(rig, "gateway")
    client = await Client.connect(rig, pod.namespace, target, 8085)
    assert await client.echo() == "hello"
    gateway.datapath.nat.delete([flow.key for flow in gateway.datapath.nat.items()])
    return pod, client


@pytest.mark.parametrize("target", [TARGET, ip_address("2001:db8:113::10")], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("where", ["source", "gateway"], ids=["remote", "local"])
async def test_a_connection_that_the_gateway_does_not_know_is_reset(leased: Rig, where: str, target: IPAddress) -> None:
    """Checksums are left to cards, or computed on the gateway only, or on both nodes: a wrong one is then lost."""
    gateway, source = leased.nodes["gateway"], leased.nodes[where]
    async with tcp_server(leased, leased.outside, target, 8085) as peers:
        for computing in ((), (gateway,), (gateway, source)):
            for node in computing:
                checksum_offload(leased, node.namespace, "eth0", enabled=False)
            before = counted(gateway, Reason.RESET)
            pod, client = await unknown_connection(leased, where, target, reset=True)
            try:
                with pytest.raises(ConnectionResetError):
                    client.writer.write(bytes(40_000))
                    await client.echo()
                assert counted(gateway, Reason.RESET) > before
                newer = await Client.connect(leased, pod.namespace, target, 8085)
                assert await newer.echo() == "hello"
                await newer.reset()
            finally:
                await client.reset()
                for node in computing:
                    checksum_offload(leased, node.namespace, "eth0", enabled=True)
        assert len(peers) == 6
        _, client = await unknown_connection(leased, where, target, reset=False)
        assert await client.echo("still") == "still"
        await client.close()


def counted(node: Node, reason: Reason) -> int:
    return sum(node.datapath.counters.get(program, reason).packets for program in (POD, OVERLAY))


@pytest.mark.parametrize("version", [4, 6])
async def test_a_reset_is_what_a_closed_port_would_say(leased: Rig, version: int) -> None:
    """RFC 9293, section 3.10.7.1: the sequence number that was acknowledged, or an acknowledgment of everything."""
    gateway = leased.nodes["gateway"]
    pod = gateway.pods[0]
    grant(gateway, 60_000)
    lead_to(leased, "gateway")
    slot = gateway.datapath.slots.get(1)
    assert slot
    gateway.datapath.slots.set(1, replace(slot, reset=True))
    macs = {"dst": "02:00:00:00:00:01", "src": "02:00:00:00:00:02"}
    source, target = (pod.v4, "198.51.100.9") if version == 4 else (pod.v6, "2001:db8::9")
    ends = {"src": str(source), "dst": target}
    layers = [IP(**ends), IP(**ends, options=[IPOption_NOP()] * 4)] if version == 4 else [IPv6(**ends)]
    with Bench(gateway) as bench:
        for layer in layers:
            for flags, seq, ack, expected in (
                ("A", 1_000, 77, (77, 0, "R")),
                ("PA", 2**32 - 1, 2**32 - 5, (2**32 - 5, 0, "R")),
                ("F", 1_000, 0, (0, 1_000 + 33 + 1, "RA")),
                ("P", 2**32 - 10, 0, (0, 23, "RA")),
            ):
                frame = Ether(**macs) / layer / TCP(sport=999, dport=80, flags=flags, seq=seq, ack=ack) / bytes(33)
                outcome, reason = bench.run(POD, bytes(frame), pod.ifindex)
                assert (outcome.verdict, reason) == (Verdict.REDIRECT, Reason.RESET)
                found = Ether(outcome.frame)
                network, tcp = found[IP if version == 4 else IPv6], found[TCP]
                assert (found.src, found.dst) == (macs["dst"], macs["src"])
                assert (network.src, network.dst) == (target, str(source))
                assert (tcp.sport, tcp.dport, tcp.window, len(tcp.payload)) == (80, 999, 0, 0)
                assert (tcp.seq, tcp.ack, str(tcp.flags)) == expected
                assert checksums_are_right(outcome.frame)
            frame = Ether(**macs) / layer / TCP(sport=999, dport=80, flags="R")
            assert bench.run(POD, bytes(frame), pod.ifindex)[1] is Reason.NO_FLOW, "a reset is never answered"
    assert list(gateway.datapath.nat.items()) == []
