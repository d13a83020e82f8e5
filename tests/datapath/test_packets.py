"""Random and malformed packets against an independent model: verdict, reason, and every byte of what leaves."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from egresslab.datapath.attachments import OVERLAY_PORT
from egresslab.datapath.testing import INSIDE, Rig
from egresslab.datapath.values import GatewaySlot, IPAddress, PolicyEntry, Program, Reason, Verdict

from .model import Model, checksums_are_right, translated
from .worker import Bench

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]
relaxed = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

EGRESS: dict[int, IPAddress] = {4: ip_address("172.18.18.12"), 6: ip_address("fd00:18::12")}
SELECTED = {4: "198.51.100.0/24", 6: "2001:db8:1::/64"}
DESTINATIONS = {
    4: [
        "198.51.100.7",  # selected, local gateway
        "198.51.100.200",  # excluded
        "198.51.100.130",  # another gateway
        "198.51.100.140",  # slot without a gateway
        "198.51.100.150",  # gateway without an address
        "192.0.2.1",  # nothing selects it
        "10.244.5.5",  # inside
    ],
    6: [
        "2001:db8:1::7",
        "2001:db8:1::200",
        "2001:db8:1::130",
        "2001:db8:1::140",
        "2001:db8:1::150",
        "2001:db8:2::1",
        "fd00:10:244:5::5",
    ],
}
HERE, ELSEWHERE = IPv4Address("192.168.60.12"), IPv4Address("192.168.60.11")
SLOTS = {
    1: GatewaySlot(HERE, EGRESS[4], EGRESS[6], local=True),  # type: ignore[arg-type]
    2: GatewaySlot(ELSEWHERE),
    3: GatewaySlot(),
    4: GatewaySlot(HERE, local=True),
}


@pytest.fixture(scope="module")
def bench(shared_rig: Rig) -> Iterator[Bench]:
    with Bench(shared_rig.nodes["gateway"]) as made:
        yield made


@pytest.fixture
def model(rig: Rig) -> Model:
    gateway = rig.nodes["gateway"]
    entries = []
    for pod in (gateway.pods[0], rig.nodes["source"].pods[0]):
        for version, source in ((4, pod.v4), (6, pod.v6)):
            chosen = DESTINATIONS[version]
            entries += [
                PolicyEntry(source, ip_network(SELECTED[version]), 1),
                *(
                    PolicyEntry(source, ip_network(chosen[index]), slot, slot == 1)
                    for index, slot in ((1, 1), (2, 2), (3, 3), (4, 4))
                ),
            ]
    gateway.datapath.slots.replace(SLOTS)
    gateway.datapath.policy.replace(entries)
    return Model(entries, list(INSIDE), {1: EGRESS, 4: {}}, elsewhere={2})


NETWORK_HEADERS = {0x0800: 34, 0x86DD: 54}
"""Bytes that the kernel wants in a trial."""
HALF_OF_TCP_CHECKSUM = 17
"""A quotation of this length ends inside the checksum, which then stays as it is."""
MACS = {"dst": "02:00:00:00:00:01", "src": "02:00:00:00:00:02"}
"""Given everywhere, or scapy would ask the network for them."""
ports = st.integers(1, 65_535).filter(lambda port: port != OVERLAY_PORT)
"""The tunnel has a socket, so a pod's flow is not given its port."""
versions = st.sampled_from([4, 6])


@st.composite
def transports(draw: st.DrawFn, version: int) -> Packet:
    """TCP, UDP (also without a checksum) or an echo request, with data."""
    kind = draw(st.sampled_from(["tcp", "udp", "udp0", "echo"]))
    data = Raw(draw(st.binary(max_size=200)))
    if kind == "tcp":
        options = draw(
            st.sampled_from([[], [("NOP", None)] * 4, [("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]])
        )
        flags = draw(st.sampled_from(["S", "A", "PA", "FA", "R", "SA"]))
        return TCP(sport=draw(ports), dport=draw(ports), flags=flags, seq=7, options=options) / data
    if kind == "echo":
        identifier = draw(ports)
        return (ICMP(id=identifier) if version == 4 else ICMPv6EchoRequest(id=identifier)) / data
    udp = UDP(sport=draw(ports), dport=draw(ports))
    if kind == "udp0" and version == 4:
        udp.chksum = 0
    return udp / data


@st.composite
def frames(draw: st.DrawFn, version: int, source: IPAddress) -> Packet:
    """What a pod sends: to anywhere, with or without options."""
    destination = draw(st.sampled_from(DESTINATIONS[version]))
    hops = draw(st.integers(2, 255))
    above = draw(transports(version))
    ether = Ether(**MACS, type=0x0800 if version == 4 else 0x86DD)
    if version == 4:
        options = draw(st.sampled_from([[], [IPOption_NOP()] * 4, [IPOption_RR(pointer=4, routers=["0.0.0.0"] * 2)]]))
        return Ether(bytes(ether / IP(src=str(source), dst=destination, ttl=hops, options=options) / above))
    extension = draw(st.booleans())
    network = IPv6(src=str(source), dst=destination, hlim=hops)
    return Ether(bytes(ether / (network / IPv6ExtHdrDestOpt() if extension else network) / above))


@pytest.mark.parametrize("version", [4, 6])
async def test_what_a_pod_sends(rig: Rig, bench: Bench, model: Model, version: int) -> None:
    pod = rig.nodes["gateway"].pods[0]
    source = pod.v4 if version == 4 else pod.v6

    @relaxed
    @given(frame=frames(version, source))
    def holds(frame: Packet) -> None:
        outcome, reason = bench.run(Program.FROM_POD, bytes(frame), pod.ifindex)
        verdict, expected_reason, expected = model.from_pod(frame)
        assert (outcome.verdict, reason) == (verdict, expected_reason)
        assert outcome.frame == bytes(expected)

    holds()


@pytest.mark.parametrize("version", [4, 6])
async def test_there_and_back_again(rig: Rig, bench: Bench, model: Model, version: int) -> None:
    """The reply of what was translated reaches the pod as if it had never been."""
    gateway, pod = rig.nodes["gateway"], rig.nodes["source"].pods[0]
    source = pod.v4 if version == 4 else pod.v6

    @relaxed
    @given(above=transports(version), data=st.binary(max_size=100))
    def holds(above: Packet, data: bytes) -> None:
        ether = Ether(**MACS, type=0x0800 if version == 4 else 0x86DD)
        network = IP if version == 4 else IPv6
        frame = Ether(bytes(ether / network(src=str(source), dst=DESTINATIONS[version][0]) / above))
        outcome, reason = bench.run(Program.FROM_OVERLAY, bytes(frame), gateway.overlay)
        assert reason is Reason.TRANSLATED
        assert outcome.frame == bytes(translated(frame, source=EGRESS[version]))
        answer = Ether(
            bytes(ether / network(src=DESTINATIONS[version][0], dst=str(EGRESS[version])) / answering(above, data))
        )
        outcome, reason = bench.run(Program.FROM_WIRE, bytes(answer), gateway.links["eth0"])
        assert reason is Reason.RETURNED
        assert outcome.frame == bytes(translated(answer, destination=source))

    holds()


def answering(above: Packet, data: bytes) -> Packet:
    if isinstance(above, ICMP):
        return ICMP(type=0, id=above.id) / Raw(data)
    if isinstance(above, ICMPv6EchoRequest):
        return ICMPv6EchoReply(id=above.id) / Raw(data)
    if isinstance(above, TCP):
        return TCP(sport=above.dport, dport=above.sport, flags="A") / Raw(data)
    return UDP(sport=above.dport, dport=above.sport) / Raw(data)


@pytest.mark.parametrize("version", [4, 6])
async def test_errors_about_what_was_translated(rig: Rig, bench: Bench, model: Model, version: int) -> None:
    """Whatever length a router quotes: the pod sees its own packet quoted, and the checksums are right."""
    gateway, pod = rig.nodes["gateway"], rig.nodes["source"].pods[0]
    source = pod.v4 if version == 4 else pod.v6
    router = "203.0.113.254" if version == 4 else "2001:db8:113::254"

    @relaxed
    @given(above=transports(version), quoted=st.integers(8, 120).filter(lambda size: size != HALF_OF_TCP_CHECKSUM))
    def holds(above: Packet, quoted: int) -> None:
        ether = Ether(**MACS, type=0x0800 if version == 4 else 0x86DD)
        network = IP if version == 4 else IPv6
        frame = Ether(bytes(ether / network(src=str(source), dst=DESTINATIONS[version][0]) / above))
        left, _ = bench.run(Program.FROM_OVERLAY, bytes(frame), gateway.overlay)
        header = 20 if version == 4 else 40
        quotation = left.frame[14 : 14 + header + quoted]
        own = bytes(translated(frame))[14 : 14 + header + quoted]
        error = ICMP(type=3, code=4, nexthopmtu=1400) if version == 4 else ICMPv6PacketTooBig(mtu=1400)
        arriving = ether / network(src=router, dst=str(EGRESS[version])) / error / Raw(quotation)
        outcome, reason = bench.run(Program.FROM_WIRE, bytes(arriving), gateway.links["eth0"])
        assert reason is Reason.RETURNED
        hops = {"ttl": 63} if version == 4 else {"hlim": 63}
        assert outcome.frame == bytes(ether / network(src=router, dst=str(source), **hops) / error / Raw(own))

    holds()


def icmp_checksum_is_right(frame: bytes, version: int) -> bool:
    start = 14 + (20 if version == 4 else 40)
    message = frame[start:]
    if version == 6:
        message = frame[22:54] + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big") + message
    message += b"\0" * (len(message) % 2)
    total = sum(int.from_bytes(message[i : i + 2], "big") for i in range(0, len(message), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


async def test_broken_packets_are_dropped_or_left_alone(rig: Rig, bench: Bench, model: Model) -> None:
    """Truncated and overwritten frames: if one leaves translated, then as a valid packet from the egress address."""
    gateway = rig.nodes["gateway"]
    pod = gateway.pods[0]
    hooks = [
        (Program.FROM_POD, pod.ifindex),
        (Program.TO_POD, pod.ifindex),
        (Program.FROM_OVERLAY, gateway.overlay),
        (Program.FROM_WIRE, gateway.links["eth0"]),
        (Program.TO_WIRE, gateway.links["eth0"]),
    ]

    @settings(relaxed, max_examples=200)
    @given(
        hook=st.sampled_from(hooks),
        frame=st.one_of(frames(4, pod.v4), frames(6, pod.v6)),
        length=st.integers(34, 300),
        changes=st.lists(st.tuples(st.integers(14, 120), st.integers(0, 255)), max_size=4),
    )
    def holds(hook: tuple[Program, int], frame: Packet, length: int, changes: list[tuple[int, int]]) -> None:
        raw = bytearray(bytes(frame)[: max(length, NETWORK_HEADERS[frame.type])])
        for offset, value in changes:
            if offset < len(raw):
                raw[offset] = value
        outcome, reason = bench.run(hook[0], bytes(raw), hook[1])
        assert (outcome.verdict is Verdict.DROP) == (
            reason.dropped or (reason in (Reason.TOO_BIG, Reason.TIME_EXCEEDED) and outcome.verdict is Verdict.DROP)
        )
        if reason is Reason.TRANSLATED:
            left = Ether(outcome.frame)
            layer = left[IP] if IP in left else left[IPv6]
            assert ip_address(layer.src) == EGRESS[layer.version]
            if checksums_are_right(bytes(raw)):
                assert checksums_are_right(outcome.frame)
        elif outcome.verdict is Verdict.PASS:
            assert outcome.frame == bytes(raw)

    holds()


@pytest.mark.parametrize("mss", [536, 1410, 1411, 1460, 8960])
@pytest.mark.parametrize("padding", [0, 1, 2, 3])
async def test_the_offered_segment_size_fits_the_tunnel(
    rig: Rig, bench: Bench, model: Model, mss: int, padding: int
) -> None:
    pod = rig.nodes["gateway"].pods[0]
    options = [*[("NOP", None)] * padding, ("MSS", mss), ("SAckOK", b""), *[("NOP", None)] * ((4 - padding) % 4 + 2)]
    network = IP(src=str(pod.v4), dst=DESTINATIONS[4][2])
    frame = (
        Ether(**MACS, type=0x0800)
        / network
        / TCP(sport=1000 + mss % 1000 + padding, dport=80, flags="S", options=options)
    )
    outcome, reason = bench.run(Program.FROM_POD, bytes(frame), pod.ifindex)
    assert reason is Reason.STEERED
    offered = dict(option for option in Ether(outcome.frame)[TCP].options if option[0] == "MSS")
    assert offered["MSS"] == min(mss, 1410)
    assert checksums_are_right(outcome.frame)


@pytest.mark.parametrize("protocol", [47, 50, 132, 4, 89], ids=["gre", "esp", "sctp", "ipip", "ospf"])
@pytest.mark.parametrize("version", [4, 6])
async def test_other_protocols_leave_only_where_nothing_selects_them(
    rig: Rig, bench: Bench, model: Model, protocol: int, version: int
) -> None:
    pod = rig.nodes["gateway"].pods[0]

    def send(destination: str) -> tuple[Verdict, Reason]:
        if version == 4:
            frame = Ether(**MACS, type=0x0800) / IP(src=str(pod.v4), dst=destination, proto=protocol) / Raw(bytes(40))
        else:
            frame = Ether(**MACS, type=0x86DD) / IPv6(src=str(pod.v6), dst=destination, nh=protocol) / Raw(bytes(40))
        outcome, reason = bench.run(Program.FROM_POD, bytes(frame), pod.ifindex)
        return outcome.verdict, reason

    assert send(DESTINATIONS[version][0]) == (Verdict.DROP, Reason.UNKNOWN_PROTOCOL)
    assert send(DESTINATIONS[version][1]) == (Verdict.PASS, Reason.EXCLUDED)
    assert send(DESTINATIONS[version][5]) == (Verdict.PASS, Reason.NO_ENTRY)


async def test_fragments_follow_their_first(rig: Rig, bench: Bench, model: Model) -> None:
    pod = rig.nodes["gateway"].pods[0]
    whole = bytes(UDP(sport=7000, dport=53, chksum=0) / Raw(bytes(72)))

    def fragment(identification: int, offset: int, more: bool) -> bytes:
        network = IP(src=str(pod.v4), dst=DESTINATIONS[4][0], id=identification, frag=offset // 8, proto=17)
        network.flags = "MF" if more else 0
        return bytes(Ether(**MACS, type=0x0800) / network / Raw(whole[offset : offset + 40]))

    orphan, reason = bench.run(Program.FROM_POD, fragment(1, 40, False), pod.ifindex)
    assert (orphan.verdict, reason) == (Verdict.DROP, Reason.FRAGMENT_WITHOUT_FIRST)
    for offset, more in ((0, True), (40, False)):
        outcome, reason = bench.run(Program.FROM_POD, fragment(2, offset, more), pod.ifindex)
        assert reason is Reason.TRANSLATED
        assert Ether(outcome.frame)[IP].src == str(EGRESS[4])
        assert outcome.frame[34:] == fragment(2, offset, more)[34:]


async def test_an_answer_quotes_what_was_sent(rig: Rig, bench: Bench, model: Model) -> None:
    gateway = rig.nodes["gateway"]
    pod = gateway.pods[0]
    for version, source, answerer in ((4, pod.v4, gateway.v4), (6, pod.v6, gateway.v6)):
        ether = Ether(**MACS, type=0x0800 if version == 4 else 0x86DD)
        hops = {"ttl": 1} if version == 4 else {"hlim": 1}
        network = (IP if version == 4 else IPv6)(src=str(source), dst=DESTINATIONS[version][0], **hops)
        frame = bytes(ether / network / UDP(sport=33_000, dport=33_434) / Raw(bytes(32)))
        outcome, reason = bench.run(Program.FROM_POD, frame, pod.ifindex)
        assert (outcome.verdict, reason) == (Verdict.REDIRECT, Reason.TIME_EXCEEDED)
        answer = Ether(outcome.frame)
        layer = answer[IP] if version == 4 else answer[IPv6]
        assert (ip_address(layer.src), ip_address(layer.dst)) == (answerer, source)
        assert (answer.dst, answer.src) == ("02:00:00:00:00:02", "02:00:00:00:00:01")
        assert icmp_checksum_is_right(outcome.frame, version)
        assert outcome.frame[14 + (28 if version == 4 else 48) :] == frame[14 : 14 + 68][: len(frame) - 14]
