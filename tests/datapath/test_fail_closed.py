"""When something is missing, selected traffic is dropped with a reason; it never leaves under another address."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from egresslab.datapath.testing import Node, Pod, Rig
from egresslab.datapath.values import GatewaySlot, PolicyEntry, Program, Reason

from .traffic import Capture, eventually

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

TARGET = "203.0.113.10"
Spoil = Callable[[Rig, Pod, Node], None]


def not_ready(rig: Rig, pod: Pod, gateway: Node) -> None:
    for address in pod.addresses:
        endpoint = pod.node.datapath.endpoints.get(address)
        assert endpoint
        pod.node.datapath.endpoints.set(address, replace(endpoint, ready=False))


def unknown(rig: Rig, pod: Pod, gateway: Node) -> None:
    for address in pod.addresses:
        pod.node.datapath.endpoints.delete(address)


def no_slot(rig: Rig, pod: Pod, gateway: Node) -> None:
    pod.node.datapath.slots.delete(1)


def no_endpoint(rig: Rig, pod: Pod, gateway: Node) -> None:
    pod.node.datapath.slots.set(1, GatewaySlot())


def gateway_without_slot(rig: Rig, pod: Pod, gateway: Node) -> None:
    gateway.datapath.slots.delete(1)


def gateway_without_policy(rig: Rig, pod: Pod, gateway: Node) -> None:
    gateway.datapath.policy.replace([])


def gateway_elsewhere(rig: Rig, pod: Pod, gateway: Node) -> None:
    gateway.datapath.slots.set(1, GatewaySlot(IPv4Address("192.168.60.13")))


def no_source(rig: Rig, pod: Pod, gateway: Node) -> None:
    gateway.datapath.slots.set(1, GatewaySlot(gateway.v4, local=True, ifindex=gateway.links["eth1"]))


def wrong_node(rig: Rig, pod: Pod, gateway: Node) -> None:
    for address in pod.addresses:
        endpoint = gateway.datapath.endpoints.get(address)
        assert endpoint
        gateway.datapath.endpoints.set(address, replace(endpoint, node=IPv4Address("192.168.60.99")))


def no_overlay(rig: Rig, pod: Pod, gateway: Node) -> None:
    pod.node.datapath.configure(pod.node.config(overlay_ifindex=0))


@pytest.mark.parametrize(
    ("spoil", "where", "program", "reason"),
    [
        (not_ready, "source", Program.FROM_POD, Reason.NOT_READY),
        (unknown, "source", Program.FROM_POD, Reason.INVALID_SOURCE),
        (no_slot, "source", Program.FROM_POD, Reason.NO_GATEWAY),
        (no_endpoint, "source", Program.FROM_POD, Reason.NO_GATEWAY),
        (no_overlay, "source", Program.FROM_POD, Reason.NO_OVERLAY),
        (gateway_without_slot, "gateway", Program.FROM_OVERLAY, Reason.NO_GATEWAY),
        (gateway_without_policy, "gateway", Program.FROM_OVERLAY, Reason.NOT_GATEWAY),
        (gateway_elsewhere, "gateway", Program.FROM_OVERLAY, Reason.NOT_GATEWAY),
        (no_source, "gateway", Program.FROM_OVERLAY, Reason.NO_EGRESS_IP),
        (wrong_node, "gateway", Program.FROM_OVERLAY, Reason.INVALID_SOURCE),
    ],
    ids=lambda value: getattr(value, "__name__", None) or getattr(value, "name", None) or str(value),
)
async def test_dropped_with_a_reason_and_nothing_leaks(
    rig: Rig, spoil: Spoil, where: str, program: Program, reason: Reason
) -> None:
    pod, gateway = await rig.add_pod("source", "victim"), rig.nodes["gateway"]
    rig.select(pod, "0.0.0.0/0", "::/0", gateway="gateway")
    spoil(rig, pod, gateway)
    witness = rig.nodes[where].datapath
    before = witness.counters.get(program, reason).packets
    events = []
    witness.flows.read(lambda _: None)
    with Capture(rig, rig.outside, "eth0", "eth1") as capture:
        for address in (TARGET, "2001:db8:113::10"):
            family = socket.AF_INET if "." in address else socket.AF_INET6
            client = rig.socket(pod.namespace, family, socket.SOCK_DGRAM)
            client.sendto(b"secret", (address, 9))
            client.close()
        await eventually(lambda: witness.counters.get(program, reason).packets >= before + 2, "both were dropped")
        witness.flows.read(events.append)
        targets = {ip_address(TARGET), ip_address("2001:db8:113::10")}
        assert not [packet for packet in capture.seen if packet[1] in targets and packet[2] == socket.IPPROTO_UDP]
    dropped = [event for event in events if event.reason is reason and event.pod in pod.addresses]
    assert {event.remote for event in dropped} == targets


async def test_a_policy_that_fails_open_lets_packets_pass_only_while_it_has_no_gateway(rig: Rig) -> None:
    pod, gateway = await rig.add_pod("source", "careless"), rig.nodes["gateway"]
    rig.select(pod, "0.0.0.0/0", "::/0", gateway="gateway")
    source = pod.node.datapath
    with_gateway = source.slots.get(1)
    assert with_gateway
    client = rig.socket(pod.namespace, socket.AF_INET, socket.SOCK_DGRAM)
    for slot, reason in (
        (GatewaySlot(open=True), Reason.FAIL_OPEN),
        (replace(with_gateway, open=True), Reason.STEERED),
        (GatewaySlot(), Reason.NO_GATEWAY),
    ):
        source.slots.set(1, slot)
        before = source.counters.get(Program.FROM_POD, reason).packets
        client.sendto(b"hello", (TARGET, 9))
        await eventually(
            lambda r=reason, b=before: source.counters.get(Program.FROM_POD, r).packets > b,
            f"one packet is {reason.name}",
        )
    client.close()
    assert gateway.datapath.slots.get(1), "the gateway was not touched"


async def test_without_a_route_it_is_dropped(rig: Rig) -> None:
    pod, gateway = rig.nodes["gateway"].pods[0], rig.nodes["gateway"]
    rig.select(pod, "0.0.0.0/0", "::/0", gateway="gateway", ifindex=0)
    for target, family in ((TARGET, "-4"), ("2001:db8:113::10", "-6")):
        await rig.run(gateway.namespace, "ip", family, "route", "add", "blackhole", target)
        try:
            before = gateway.datapath.counters.get(Program.FROM_POD, Reason.NO_ROUTE).packets
            client = rig.socket(pod.namespace, socket.AF_INET if family == "-4" else socket.AF_INET6, socket.SOCK_DGRAM)
            client.sendto(b"where to?", (target, 9))
            client.close()
            assert gateway.datapath.counters.get(Program.FROM_POD, Reason.NO_ROUTE).packets == before + 1
        finally:
            await rig.run(gateway.namespace, "ip", family, "route", "del", "blackhole", target)


async def test_a_pod_cannot_borrow_another_pods_address(rig: Rig) -> None:
    owner, thief = rig.nodes["source"].pods[0], await rig.add_pod("source", "thief")
    rig.select(owner, "0.0.0.0/0", gateway="gateway")
    counters = thief.node.datapath.counters
    before = counters.get(Program.FROM_POD, Reason.INVALID_SOURCE).packets
    await rig.run(thief.namespace, "ip", "addr", "add", f"{owner.v4}/32", "dev", "eth0")
    client = rig.socket(thief.namespace, socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((str(owner.v4), 0))
    client.sendto(b"mine?", (TARGET, 9))
    client.close()
    assert counters.get(Program.FROM_POD, Reason.INVALID_SOURCE).packets == before + 1


async def test_the_wire_guards_what_came_another_way(rig: Rig) -> None:
    """A pod's link without our programs, on a node without masquerade: the last hook still stops a selected packet."""
    pod = await rig.add_pod("source", "unguarded")
    rig.select(pod, "0.0.0.0/0", gateway="gateway")
    await pod.node.attachments.detach(pod.ifindex)
    await rig.run(pod.node.namespace, "nft", "flush", "chain", "inet", "pods", "postrouting")
    counters = pod.node.datapath.counters
    try:
        before = counters.get(Program.TO_WIRE, Reason.UNTRANSLATED).packets
        client = rig.socket(pod.namespace, socket.AF_INET, socket.SOCK_DGRAM)
        client.sendto(b"leak", (TARGET, 9))
        client.close()
        assert counters.get(Program.TO_WIRE, Reason.UNTRANSLATED).packets == before + 1
    finally:
        await rig.masquerade(pod.node)


async def test_a_policy_may_ask_to_fail_open(rig: Rig) -> None:
    """failMode: Open. Without a gateway its packets pass to the node; with one they are steered again."""
    pod = rig.nodes["source"].pods[0]
    rig.select(pod, "0.0.0.0/0", gateway="gateway")
    counters = pod.node.datapath.counters
    pod.node.datapath.slots.set(1, GatewaySlot(open=True))
    before = counters.get(Program.FROM_POD, Reason.FAIL_OPEN).packets
    with Capture(rig, rig.outside, "eth0", "eth1") as capture:
        assert "1 received" in await rig.run(pod.namespace, "ping", "-c", "1", "-W", "2", TARGET)
        assert pod.node.v4 in capture.sources()
    assert counters.get(Program.FROM_POD, Reason.FAIL_OPEN).packets == before + 1
    pod.node.datapath.slots.set(1, GatewaySlot(rig.nodes["gateway"].v4, open=True))
    assert "1 received" in await rig.run(pod.namespace, "ping", "-c", "1", "-W", "2", TARGET)
    assert counters.get(Program.FROM_POD, Reason.FAIL_OPEN).packets == before + 1


async def test_unselected_and_excluded_traffic_is_left_to_the_node(rig: Rig) -> None:
    pod = rig.nodes["source"].pods[0]
    with Capture(rig, rig.outside, "eth0") as capture:
        assert "1 received" in await rig.run(pod.namespace, "ping", "-c", "1", "-W", "2", TARGET)
        assert pod.node.v4 in capture.sources()
    rig.select(pod, "203.0.113.0/24", gateway="gateway")
    pod.node.datapath.policy.update([PolicyEntry(pod.v4, ip_network(f"{TARGET}/32"), 1, excluded=True)])
    before = pod.node.datapath.counters.get(Program.FROM_POD, Reason.EXCLUDED).packets
    assert "1 received" in await rig.run(pod.namespace, "ping", "-c", "1", "-W", "2", TARGET)
    assert pod.node.datapath.counters.get(Program.FROM_POD, Reason.EXCLUDED).packets == before + 1
