"""Leases as packets meet them: probes answered with nobody alive, gateways followed and fenced, addresses answered."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from scapy.utils6 import in6_getnsma, in6_getnsmac

from egresslab.datapath.probe import PORT, Answer, GrantRequest, Request, pack_request, unpack_answer
from egresslab.datapath.testing import Node, Rig
from egresslab.datapath.values import (
    Announced,
    GatewaySlot,
    IPAddress,
    Program,
    Reason,
    Verdict,
)
from egresslab.errors import DatapathError

from .leasing import LEASE, VOTER, grant, lead_to, now_ns
from .test_cases import OVERLAY, POD, reply, syn
from .traffic import Client, checksum_offload, receive, tcp_server, udp_server
from .worker import Bench

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

TARGET = ip_address("203.0.113.10")
VIRTUAL, OTHER = IPv4Address("172.18.18.201"), IPv4Address("172.18.18.202")
VIRTUAL_V6, OTHER_V6 = IPv6Address("fd00:18::201"), IPv6Address("fd00:18::202")
SO_NO_CHECK = 11


class Voter:
    """A socket on a node's probe port."""

    def __init__(self, rig: Rig, node: Node, checksum: bool = True) -> None:
        self.socket = rig.socket(node.namespace, socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, not checksum)
        self.socket.bind((str(node.v4), PORT))

    async def ask(self, gateway: Node, request: Request) -> Answer:
        self.socket.sendto(pack_request(request), (str(gateway.v4), PORT))
        answer = unpack_answer(await receive(self.socket))
        assert answer is not None
        return answer


@pytest.mark.parametrize("computed", ["by the kernel", "by the card", "not at all"])
async def test_a_probe_is_answered_and_counted_with_no_process_alive(leased: Rig, computed: str) -> None:
    """Nobody listens on the gateway. Its kernel answers, and two probes make a lease: the second echoes the clock."""
    source, gateway = leased.nodes["source"], leased.nodes["gateway"]
    voter = Voter(leased, source, checksum=computed != "not at all")
    before = gateway.datapath.counters.get(Program.FROM_WIRE, Reason.PROBED).packets
    if computed == "by the kernel":
        checksum_offload(leased, source.namespace, "eth0", enabled=False)
    try:
        asked = GrantRequest(LEASE, 5_000, 4)
        first = await voter.ask(gateway, Request(1, 111, 0, (asked,)))
        assert (first.sequence, first.clock_ns, first.leases[0].held_ms) == (1, 111, 0)
        second = await voter.ask(gateway, Request(2, 222, first.gateway_ns, (asked,)))
        assert second.leases[0].epoch == 4 and 0 < second.leases[0].held_ms <= 5_000
        found = gateway.datapath.leases.lease(LEASE)
        assert found and found.holds_until_ns == first.gateway_ns + 5_000_000_000
    finally:
        checksum_offload(leased, source.namespace, "eth0", enabled=True)
        voter.socket.close()
    assert gateway.datapath.counters.get(Program.FROM_WIRE, Reason.PROBED).packets == before + 2


async def test_a_stranger_is_answered_and_grants_nothing(leased: Rig) -> None:
    stranger, gateway = Voter(leased, leased.nodes["spare"]), leased.nodes["gateway"]
    first = await stranger.ask(gateway, Request(1, 0))
    answer = await stranger.ask(gateway, Request(2, 0, first.gateway_ns, (GrantRequest(LEASE, 5_000, 1),)))
    stranger.socket.close()
    assert (answer.leases[0].held_ms, answer.leases[0].epoch) == (0, 0)


async def test_a_datagram_that_only_looks_like_a_probe_reaches_its_socket(leased: Rig) -> None:
    gateway = leased.nodes["gateway"]
    listener = Voter(leased, gateway)
    sender = Voter(leased, leased.nodes["source"])
    spoiled = bytearray(pack_request(Request(1, 2)))
    spoiled[4] = 2
    sender.socket.sendto(bytes(spoiled), (str(gateway.v4), PORT))
    assert await receive(listener.socket) == bytes(spoiled)
    listener.socket.close()
    sender.socket.close()


async def test_a_failover_is_one_write_of_holders_on_each_node(leased: Rig) -> None:
    pod = leased.nodes["source"].pods[0]
    async with udp_server(leased, leased.outside, TARGET, 8083) as peers:
        for epoch, name in enumerate(("gateway", "spare", "gateway"), start=1):
            grant(leased.nodes[name], 20_000, epoch)
            lead_to(leased, name, epoch)
            client = leased.socket(pod.namespace, socket.AF_INET, socket.SOCK_DGRAM)
            client.connect((str(TARGET), 8083))
            client.send(b"who am I?")
            assert await receive(client) == b"who am I?"
            client.close()
            assert peers[-1][0] == leased.nodes[name].public_v4


async def test_without_a_holder_it_is_dropped_or_passes_as_the_slot_says(leased: Rig) -> None:
    node = leased.nodes["source"]
    lead_to(leased, None)
    client = leased.socket(node.pods[0].namespace, socket.AF_INET, socket.SOCK_DGRAM)
    for opened, reason in ((False, Reason.NO_GATEWAY), (True, Reason.FAIL_OPEN)):
        node.datapath.slots.set(1, GatewaySlot(lease=LEASE, open=opened))
        before = node.datapath.counters.get(Program.FROM_POD, reason).packets
        client.sendto(b"anyone?", (str(TARGET), 9))
        # A veth delivers to our programs within the call that sends.
        assert node.datapath.counters.get(Program.FROM_POD, reason).packets == before + 1
    client.close()


async def test_a_leased_slot_names_no_gateway_of_its_own(leased: Rig) -> None:
    slots = leased.nodes["source"].datapath.slots
    with pytest.raises(DatapathError, match="its lease says"):
        slots.set(5, GatewaySlot(leased.nodes["gateway"].v4, lease=LEASE))
    with pytest.raises(DatapathError, match="its lease says"):
        slots.set(5, GatewaySlot(local=True, lease=LEASE))


@pytest.mark.parametrize("program", [POD, OVERLAY], ids=["own pod", "steered"])
async def test_the_holder_translates_to_the_nanosecond_and_not_beyond(leased: Rig, program: Program) -> None:
    """Every packet that was over before the lease's end left, every one that began after it did not, with nobody
    touching a map in between."""
    gateway = leased.nodes["gateway"]
    pod = gateway.pods[0] if program is POD else leased.nodes["source"].pods[0]
    lead_to(leased, "gateway")
    seen = set()
    with Bench(gateway) as bench:
        bench.run(program, syn(pod.v4), pod.ifindex if program is POD else gateway.overlay)
        ends = grant(gateway, 250)
        while Reason.NOT_HOLDER not in seen:
            began = now_ns()
            outcome, reason = bench.run(program, syn(pod.v4), pod.ifindex if program is POD else gateway.overlay)
            over = now_ns()
            if over < ends:
                assert reason is Reason.TRANSLATED
            if began >= ends:
                assert (outcome.verdict, reason) == (Verdict.DROP, Reason.NOT_HOLDER)
            seen.add(reason)
        assert seen == {Reason.TRANSLATED, Reason.NOT_HOLDER}
        _, reason = bench.run(Program.FROM_WIRE, reply(gateway.public_v4, 111), gateway.links["eth1"])
        assert reason is (Reason.DELIVERED if program is POD else Reason.RETURNED), "replies are owned by nobody"
        grant(gateway, 5_000, epoch=2)
        assert bench.run(program, syn(pod.v4), pod.ifindex if program is POD else gateway.overlay)[1] is (
            Reason.TRANSLATED
        )


async def test_a_former_holder_translates_what_is_steered_to_it_while_its_lease_lasts(leased: Rig) -> None:
    """A planned move: whoever sends hears of the new holder a moment later than the old one does."""
    gateway, pod = leased.nodes["gateway"], leased.nodes["source"].pods[0]
    lead_to(leased, "spare")
    seen = []
    with Bench(gateway) as bench:
        bench.run(OVERLAY, syn(pod.v4), gateway.overlay)
        ends = grant(gateway, 250)
        while Reason.NOT_GATEWAY not in seen:
            began = now_ns()
            outcome, reason = bench.run(OVERLAY, syn(pod.v4), gateway.overlay)
            assert reason is Reason.TRANSLATED or now_ns() >= ends
            assert began < ends or (outcome.verdict, reason) == (Verdict.DROP, Reason.NOT_GATEWAY)
            seen.append(reason)
        assert Reason.TRANSLATED in seen


class Neighbour:
    """Sends frames from outside's public interface and hears what comes back to it."""

    def __init__(self, rig: Rig) -> None:
        self.raw = rig.socket(rig.outside, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.raw.bind(("eth1", 3))
        self.mac = self.raw.getsockname()[4].hex(":")

    def arp(self, target: IPAddress, sender: str = "172.18.18.1") -> Packet:
        return Ether(dst="ff:ff:ff:ff:ff:ff", src=self.mac) / ARP(
            op=1, hwsrc=self.mac, psrc=sender, hwdst="00:00:00:00:00:00", pdst=str(target)
        )

    def solicitation(self, target: IPAddress, source: str = "fd00:18::1", option: bool = True) -> Packet:
        group = in6_getnsma(target.packed)
        asked = (
            Ether(dst=in6_getnsmac(group), src=self.mac)
            / IPv6(src=source, dst=socket.inet_ntop(socket.AF_INET6, group), hlim=255)
            / ICMPv6ND_NS(tgt=str(target))
        )
        return asked / ICMPv6NDOptSrcLLAddr(lladdr=self.mac) if option else asked

    async def answers(self, *frames: Packet, until: IPAddress, timeout: float = 5.0) -> list[Packet]:
        """Every answer up to the one about `until`."""
        heard: list[Packet] = []
        for frame in frames:
            self.raw.send(bytes(frame))
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            left = deadline - asyncio.get_running_loop().time()
            raw = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.raw, 2_000), left)
            found = Ether(raw)
            if (ARP in found and found[ARP].op == 2) or ICMPv6ND_NA in found:
                heard.append(found)
                if subject(found) == until:
                    return heard


def subject(answer: Packet) -> IPAddress:
    return ip_address(answer[ARP].psrc if ARP in answer else answer[ICMPv6ND_NA].tgt)


async def mac_of(node: Node) -> str:
    return str((await node.netlink.link("get", index=node.links["eth1"]))[0].get("address"))


@pytest.mark.parametrize("version", [4, 6])
async def test_an_address_is_answered_for_only_while_held_and_not_silent(leased: Rig, version: int) -> None:
    """After each silent case the other address is asked for too: its answer proves that the first one gives none."""
    gateway, neighbour = leased.nodes["gateway"], Neighbour(leased)
    maps, ifindex = gateway.datapath.leases, gateway.links["eth1"]
    virtual: IPAddress = VIRTUAL if version == 4 else VIRTUAL_V6
    other: IPAddress = OTHER if version == 4 else OTHER_V6
    ask = neighbour.arp if version == 4 else neighbour.solicitation
    always = 78
    maps.make_lease(always)
    maps.probe(Request(1, 0, now_ns(), (GrantRequest(always, 60_000, 1),)), sender=VOTER, target=gateway.v4)
    maps.announce(other, ifindex, Announced(always))

    async def answered() -> list[IPAddress]:
        return [subject(found) for found in await neighbour.answers(ask(virtual), ask(other), until=other)]

    assert await answered() == [other], "not announced"
    maps.announce(virtual, ifindex, Announced(LEASE))
    assert await answered() == [other], "not held"
    ends = grant(gateway, 300)
    heard = await answered()
    assert heard == [virtual, other] or now_ns() >= ends
    await asyncio.sleep(max(0, ends - now_ns()) / 1e9)
    assert await answered() == [other], "the lease has ended"
    grant(gateway, 60_000, epoch=2)
    assert await answered() == [virtual, other]
    maps.announce(virtual, ifindex, Announced(LEASE, silent=True))
    assert await answered() == [other], "silent"
    maps.announce(virtual, ifindex, Announced(LEASE))
    maps.announce(virtual, gateway.links["eth0"], Announced(LEASE))
    maps.withdraw(virtual, ifindex)
    assert await answered() == [other], "announced on another interface"
    assert maps.announced() == {
        (other, ifindex): Announced(always),
        (virtual, gateway.links["eth0"]): Announced(LEASE),
    }
    neighbour.raw.close()


async def test_the_answers_are_what_the_standards_ask(leased: Rig) -> None:
    gateway, neighbour = leased.nodes["gateway"], Neighbour(leased)
    maps, ifindex, mac = gateway.datapath.leases, gateway.links["eth1"], await mac_of(gateway)
    grant(gateway, 60_000)
    for address in (VIRTUAL, VIRTUAL_V6):
        maps.announce(address, ifindex, Announced(LEASE))
    for sender in ("172.18.18.1", "0.0.0.0"):
        (answer,) = await neighbour.answers(neighbour.arp(VIRTUAL, sender), until=VIRTUAL)
        assert (answer.src, answer.dst) == (mac, neighbour.mac)
        found = answer[ARP]
        assert (found.hwsrc, found.psrc, found.hwdst, found.pdst) == (mac, str(VIRTUAL), neighbour.mac, sender)
    for source, option, to, solicited in (
        ("fd00:18::1", True, "fd00:18::1", 1),
        ("fd00:18::1", False, "fd00:18::1", 1),
        ("::", False, "ff02::1", 0),
    ):
        asked = neighbour.solicitation(VIRTUAL_V6, source, option)
        (answer,) = await neighbour.answers(asked, until=VIRTUAL_V6)
        found = answer[ICMPv6ND_NA]
        assert (answer.src, answer[IPv6].src, answer[IPv6].dst) == (mac, str(VIRTUAL_V6), to)
        assert answer.dst == (neighbour.mac if solicited else "33:33:00:00:00:01")
        assert (answer[IPv6].hlim, found.R, found.S, found.O) == (255, 0, solicited, 1)
        assert answer[ICMPv6NDOptDstLLAddr].lladdr == mac
        assert len(answer) == 86
    # Somebody who claims the address is not answered; hop limits below 255 come from off the link (RFC 4861, 7.1.1).
    claim, routed = neighbour.arp(VIRTUAL, str(VIRTUAL)), neighbour.solicitation(VIRTUAL_V6)
    routed[IPv6].hlim = 254
    heard = await neighbour.answers(claim, routed, neighbour.arp(VIRTUAL, "172.18.18.9"), until=VIRTUAL)
    assert [found[ARP].pdst for found in heard] == ["172.18.18.9"]
    neighbour.raw.close()


async def test_outside_reaches_a_pod_behind_an_address_that_only_the_programs_answer_for(leased: Rig) -> None:
    """Nothing is written into outside's neighbour table: its kernel asks, ours answer, on both families."""
    gateway, pod = leased.nodes["gateway"], leased.nodes["source"].pods[0]
    maps = gateway.datapath.leases
    gateway.datapath.slots.set(
        1, GatewaySlot(source_v4=VIRTUAL, source_v6=VIRTUAL_V6, ifindex=gateway.links["eth1"], lease=LEASE)
    )
    grant(gateway, 60_000)
    lead_to(leased, "gateway")
    for address, target in ((VIRTUAL, TARGET), (VIRTUAL_V6, ip_address("2001:db8:113::10"))):
        await leased.run(leased.outside, "ip", "neigh", "flush", "to", str(address), "nud", "all")
        maps.announce(address, gateway.links["eth1"], Announced(LEASE))
        async with tcp_server(leased, leased.outside, target, 8084) as peers:
            client = await Client.connect(leased, pod.namespace, target, 8084)
            assert await client.echo("hello") == "hello"
            await client.close()
            assert peers == [address]
