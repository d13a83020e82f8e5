"""Single packets and the verdicts that users of Cilium's egress gateway rely on, one row each.

Where we mean to differ the row says so: translation happens where the packet is decided, not at the device's egress;
nothing unexpected from the tunnel reaches a gateway's own stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from egresslab.datapath.testing import Rig
from egresslab.datapath.values import FlowKind, GatewaySlot, PolicyEntry, Program, Reason, Verdict

from .model import checksums_are_right
from .worker import Bench

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

MACS = {"dst": "02:00:00:00:00:01", "src": "02:00:00:00:00:02"}
EXTERNAL = ip_address("203.0.113.77")
EXTERNAL_V6 = ip_address("2001:db8:113::77")
EGRESS = ip_address("172.18.18.12")
EGRESS_V6 = ip_address("fd00:18::12")
ELSEWHERE = IPv4Address("192.168.60.11")
HERE = IPv4Address("192.168.60.12")


@dataclass(frozen=True)
class Case:
    name: str
    program: Program
    rows: tuple[tuple[int, int, bool], ...]
    """(prefix length around the external address, slot, excluded)."""
    slots: dict[int, GatewaySlot]
    verdict: Verdict
    reason: Reason
    source: IPv4Address | None = None
    """Source of the frame that results; the pod's own when None."""


LOCAL = GatewaySlot(HERE, EGRESS, EGRESS_V6, local=True)
BARE = GatewaySlot(HERE, local=True)
REMOTE = GatewaySlot(ELSEWHERE)
POD, OVERLAY = Program.FROM_POD, Program.FROM_OVERLAY
WIDE, BOTH = ((24, 1, False),), ((24, 1, False), (32, 1, True))
PASS, DROP, REDIRECT = Verdict.PASS, Verdict.DROP, Verdict.REDIRECT
CASES = (
    Case("01 to the gateway through the tunnel", POD, WIDE, {1: REMOTE}, REDIRECT, Reason.STEERED),
    Case("02 excluded at the source", POD, BOTH, {1: REMOTE}, PASS, Reason.EXCLUDED),
    Case("03 no gateway at the source", POD, ((32, 0, False),), {}, DROP, Reason.NO_GATEWAY),
    Case("04 from the tunnel", OVERLAY, WIDE, {1: LOCAL}, REDIRECT, Reason.TRANSLATED, EGRESS),
    Case("05 excluded at the gateway", OVERLAY, BOTH, {1: LOCAL}, PASS, Reason.EXCLUDED),
    # Cilium passes this one to the stack, which would masquerade it.
    Case("06 no gateway at the gateway", OVERLAY, ((32, 0, False),), {}, DROP, Reason.NO_GATEWAY),
    Case("07 first connection", POD, WIDE, {1: LOCAL}, REDIRECT, Reason.TRANSLATED, EGRESS),
    Case("11 excluded where it would be translated", POD, BOTH, {1: LOCAL}, PASS, Reason.EXCLUDED),
    Case("12 no egress IP, local pod", POD, WIDE, {1: BARE}, DROP, Reason.NO_EGRESS_IP),
    Case("13 no egress IP, from the tunnel", OVERLAY, WIDE, {1: BARE}, DROP, Reason.NO_EGRESS_IP),
    # Cilium's number for this is 204 too; ours tells the two apart.
    Case("13b not the gateway, from the tunnel", OVERLAY, WIDE, {1: REMOTE}, DROP, Reason.NOT_GATEWAY),
)  # fmt: skip


@pytest.fixture(scope="module")
def bench(shared_rig: Rig) -> Iterator[Bench]:
    with Bench(shared_rig.nodes["gateway"]) as made:
        yield made


def syn(source: object, port: int = 111, target: object = EXTERNAL) -> bytes:
    layer = IP if ip_address(str(source)).version == 4 else IPv6
    return bytes(
        Ether(**MACS, type=0x0800 if layer is IP else 0x86DD)
        / layer(src=str(source), dst=str(target))
        / TCP(sport=port, dport=1234)
    )


def reply(target: object, port: int, source: object = EXTERNAL) -> bytes:
    layer = IP if ip_address(str(source)).version == 4 else IPv6
    return bytes(
        Ether(**MACS, type=0x0800 if layer is IP else 0x86DD)
        / layer(src=str(source), dst=str(target))
        / TCP(sport=1234, dport=port, flags="SA")
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_verdict(rig: Rig, bench: Bench, case: Case) -> None:
    gateway = rig.nodes["gateway"]
    pod = gateway.pods[0] if case.program is POD else rig.nodes["source"].pods[0]
    gateway.datapath.slots.replace(case.slots)
    gateway.datapath.policy.replace(
        PolicyEntry(pod.v4, ip_network(f"{EXTERNAL}/{length}", strict=False), slot, excluded)
        for length, slot, excluded in case.rows
    )
    frame = syn(pod.v4)
    outcome, reason = bench.run(case.program, frame, pod.ifindex if case.program is POD else gateway.overlay)
    assert (outcome.verdict, reason) == (case.verdict, case.reason)
    if case.verdict is not Verdict.DROP:
        assert Ether(outcome.frame)[IP].src == str(case.source or pod.v4)
        assert checksums_are_right(outcome.frame)


async def test_08_09_replies_and_a_second_connection(rig: Rig, bench: Bench) -> None:
    pod, gateway = rig.nodes["source"].pods[0], rig.nodes["gateway"]
    rig.select(pod, "203.0.113.0/24", gateway="gateway")
    for port in (111, 112):
        outcome, _ = bench.run(OVERLAY, syn(pod.v4, port), gateway.overlay)
        assert Ether(outcome.frame)[TCP].sport == port
        answer, reason = bench.run(Program.FROM_WIRE, reply(EGRESS, port), gateway.links["eth1"])
        assert (answer.verdict, reason) == (Verdict.REDIRECT, Reason.RETURNED)
        back = Ether(answer.frame)
        assert (back[IP].dst, back[TCP].dport) == (str(pod.v4), port)
        assert checksums_are_right(answer.frame)
    kinds = [flow.kind for flow in gateway.datapath.nat.items()]
    assert sorted(kinds) == [FlowKind.TRANSLATED] * 2 + [FlowKind.REPLY] * 2


async def test_10_an_egress_address_that_changed(rig: Rig, bench: Bench) -> None:
    pod, gateway = rig.nodes["source"].pods[0], rig.nodes["gateway"]
    rig.select(pod, "203.0.113.0/24", gateway="gateway")
    bench.run(OVERLAY, syn(pod.v4), gateway.overlay)
    other = IPv4Address("172.18.18.33")
    rig.select(pod, "203.0.113.0/24", gateway="gateway", source_v4=other)
    outcome, _ = bench.run(OVERLAY, syn(pod.v4), gateway.overlay)
    assert Ether(outcome.frame)[IP].src == str(other)
    flows = list(gateway.datapath.nat.items())
    assert {flow.address for flow in flows if flow.kind is FlowKind.TRANSLATED} == {other}
    assert {flow.key.local for flow in flows if flow.kind is FlowKind.REPLY} == {other}


@pytest.mark.parametrize(
    ("external", "egress"), [(EXTERNAL, EGRESS), (EXTERNAL_V6, EGRESS_V6)], ids=["15 ipv4", "16 ipv6 over ipv4"]
)
async def test_15_16_replies_ride_the_tunnel(
    rig: Rig, bench: Bench, external: IPv4Address | IPv6Address, egress: IPv4Address | IPv6Address
) -> None:
    pod, gateway = rig.nodes["source"].pods[0], rig.nodes["gateway"]
    rig.select(pod, "0.0.0.0/0", "::/0", gateway="gateway")
    address = pod.v4 if external.version == 4 else pod.v6
    bench.run(OVERLAY, syn(address, 32_769, external), gateway.overlay)
    answer, reason = bench.run(Program.FROM_WIRE, reply(egress, 32_769, external), gateway.links["eth1"])
    assert (answer.verdict, reason) == (Verdict.REDIRECT, Reason.RETURNED)
    layer = Ether(answer.frame)[IP if external.version == 4 else IPv6]
    assert (ip_address(layer.dst), layer[TCP].dport) == (address, 32_769)
    assert checksums_are_right(answer.frame)


async def test_a_local_pod_gets_its_reply_directly(rig: Rig, bench: Bench) -> None:
    gateway = rig.nodes["gateway"]
    pod = gateway.pods[0]
    rig.select(pod, "0.0.0.0/0", gateway="gateway")
    bench.run(POD, syn(pod.v4), pod.ifindex)
    answer, reason = bench.run(Program.FROM_WIRE, reply(EGRESS, 111), gateway.links["eth1"])
    assert (answer.verdict, reason) == (Verdict.REDIRECT, Reason.DELIVERED)
    assert Ether(answer.frame).dst == pod.mac


async def test_what_the_node_itself_is_sent_passes_untouched(rig: Rig, bench: Bench) -> None:
    gateway = rig.nodes["gateway"]
    rig.select(gateway.pods[0], "0.0.0.0/0", gateway="gateway")
    frame = reply(EGRESS, 22)
    outcome, reason = bench.run(Program.FROM_WIRE, frame, gateway.links["eth1"])
    assert (outcome.verdict, reason, outcome.frame) == (Verdict.PASS, Reason.NOT_OURS, frame)


async def test_ports_run_out_with_a_reason(rig: Rig, bench: Bench) -> None:
    """Eight ports, more flows to one remote: each flow gets its own port, the rest is refused, nothing is shared."""
    gateway = rig.nodes["gateway"]
    pod = gateway.pods[0]
    rig.select(pod, "0.0.0.0/0", gateway="gateway")
    gateway.datapath.configure(gateway.config(ports=(50_000, 50_007)))
    others = rig.nodes["source"].pods[0]
    rig.select(others, "0.0.0.0/0", gateway="gateway")
    reasons = []
    for port in range(50_000, 50_008):
        reasons.append(bench.run(OVERLAY, syn(others.v4, port), gateway.overlay)[1])
    reasons.append(bench.run(POD, syn(pod.v4, 50_003), pod.ifindex)[1])
    assert reasons == [Reason.TRANSLATED] * 8 + [Reason.NO_FREE_PORT]
    replies = [flow.key.local_port for flow in gateway.datapath.nat.items() if flow.kind is FlowKind.REPLY]
    assert sorted(replies) == list(range(50_000, 50_008))


async def test_the_tunnels_port_is_given_to_nobody(rig: Rig, bench: Bench) -> None:
    """A pod may speak from UDP port 8472; outside sees another one, or its answers would be taken for the tunnel's."""
    gateway = rig.nodes["gateway"]
    pod = gateway.pods[0]
    rig.select(pod, "0.0.0.0/0", gateway="gateway")
    frame = bytes(Ether(**MACS, type=0x0800) / IP(src=str(pod.v4), dst=str(EXTERNAL)) / UDP(sport=8472, dport=53))
    outcome, reason = bench.run(POD, frame, pod.ifindex)
    assert reason is Reason.TRANSLATED
    assert Ether(outcome.frame)[UDP].sport != 8472
    assert checksums_are_right(outcome.frame)
