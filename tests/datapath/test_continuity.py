"""Connections outlive the process that loaded the datapath, its replacement, policy changes and their gateway."""

from __future__ import annotations

import asyncio
import sys
import time
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from pyroute2.protocols import ETH_P_ALL

from egresslab.datapath.attachments import INGRESS
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.testing import Pod, Rig
from egresslab.datapath.values import FlowKind, GatewaySlot, PolicyEntry, Program

from .traffic import Client, tcp_server

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

TARGET = ip_address("203.0.113.10")
PORT = 8082
VIRTUAL = IPv4Address("172.18.18.201")
START_S = 60.0
"""For a process of Python to import all it needs, on an emulated processor too."""
OWNER = """
import sys, time
from pathlib import Path
from egresslab.datapath.attachments import INGRESS
from egresslab.datapath.datapath import Datapath
Datapath.open(Path(sys.argv[1]), policy_entries=4096, nat_entries=65536)
print("open", flush=True)
time.sleep(600)
"""


def steered_everywhere(rig: Rig) -> Pod:
    pod = rig.nodes["source"].pods[0]
    rig.select(pod, "0.0.0.0/0", gateway="gateway")
    return pod


async def test_killing_the_owner_interrupts_nothing(rig: Rig) -> None:
    pod = steered_everywhere(rig)
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(rig.nodes["gateway"].pin_dir), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout
    assert await asyncio.wait_for(owner.stdout.readline(), START_S) == b"open\n"
    async with tcp_server(rig, rig.outside, TARGET, PORT):
        client = await Client.connect(rig, pod.namespace, TARGET, PORT)
        assert await client.echo("before") == "before"
        owner.kill()
        await owner.wait()
        assert await client.echo("after") == "after"
        assert await client.download(1_000_000)
        await client.close()


async def test_a_second_opening_adopts_everything(rig: Rig) -> None:
    steered_everywhere(rig)
    node = rig.nodes["gateway"]
    with Datapath.open(node.pin_dir, policy_entries=4096, nat_entries=65_536) as second:
        assert second.adopted
        assert second.replaced == ()
        assert list(second.policy.items()) == list(node.datapath.policy.items())
        assert dict(second.slots.items()) == dict(node.datapath.slots.items())


async def test_programs_are_replaced_under_traffic(rig: Rig) -> None:
    """Another build of the object: its programs take the place of the old ones, connections and maps stay."""
    pod = steered_everywhere(rig)
    node = rig.nodes["gateway"]
    async with tcp_server(rig, rig.outside, TARGET, PORT):
        client = await Client.connect(rig, pod.namespace, TARGET, PORT)
        transfer = asyncio.create_task(client.download(30_000_000))
        (node.pin_dir / "object").unlink()
        with Datapath.open(node.pin_dir, policy_entries=4096, nat_entries=65_536) as second:
            assert not second.adopted
            assert second.replaced == ()
            attachments = type(node.attachments)(second, node.netlink)
            for index in node.links.values():
                await attachments.attach_wire(index)
            await attachments.attach_overlay(node.overlay)
            assert await attachments.attached(node.overlay) == {Program.FROM_OVERLAY}
        assert await transfer
        assert await client.echo("still") == "still"
        await client.close()


async def test_a_map_of_another_size_is_replaced_and_told(rig: Rig) -> None:
    await rig.add_pod("spare", "extra")
    node = rig.nodes["spare"]
    with Datapath.open(node.pin_dir, policy_entries=8192, nat_entries=65_536) as second:
        assert second.replaced == ("egress_policy_v4", "egress_policy_v6")
        assert not second.adopted
    with Datapath.open(node.pin_dir, policy_entries=4096, nat_entries=65_536) as third:
        assert third.replaced == ("egress_policy_v4", "egress_policy_v6")
        for attach, index in [
            *((type(node.attachments)(third, node.netlink).attach_wire, index) for index in node.links.values()),
            *((type(node.attachments)(third, node.netlink).attach_pod, pod.ifindex) for pod in node.pods),
            (type(node.attachments)(third, node.netlink).attach_overlay, node.overlay),
        ]:
            await attach(index)
    node.datapath.close()
    node.datapath = Datapath.open(node.pin_dir, policy_entries=4096, nat_entries=65_536)
    node.attachments = type(node.attachments)(node.datapath, node.netlink)


async def test_attaching_again_changes_nothing_and_detaching_leaves_foreign_filters(rig: Rig) -> None:
    node = rig.nodes["source"]
    index = (await rig.add_pod("source", "attached")).ifindex
    await node.attachments.attach_pod(index)
    assert await node.attachments.attached(index) == {Program.FROM_POD, Program.TO_POD}
    foreign = {"index": index, "handle": 1, "parent": INGRESS, "prio": 300, "protocol": ETH_P_ALL}
    fd = node.datapath.program_fd(Program.TO_POD)
    await node.netlink.tc("add-filter", "bpf", fd=fd, name="foreign", direct_action=True, **foreign)
    name = (await node.netlink.link("get", index=index))[0].get("ifname")
    await node.attachments.detach(index)
    assert await node.attachments.attached(index) == frozenset()
    assert "foreign" in await rig.run(node.namespace, "tc", "filter", "show", "dev", name, "ingress")
    await node.attachments.attach_pod(index)
    await node.netlink.tc("del-filter", "bpf", **foreign)
    await node.attachments.detach(index)
    assert "clsact" not in await rig.run(node.namespace, "tc", "qdisc", "show", "dev", name)


async def test_established_flows_keep_their_gateway_when_the_policy_changes(rig: Rig) -> None:
    pod = steered_everywhere(rig)
    spare = rig.nodes["spare"]
    async with tcp_server(rig, rig.outside, TARGET, PORT) as peers:
        client = await Client.connect(rig, pod.namespace, TARGET, PORT)
        assert await client.echo() == "hello"
        rig.select(pod, "0.0.0.0/0", gateway="spare", slot=2)
        assert await client.echo() == "hello"
        assert await client.download(100_000)
        newer = await Client.connect(rig, pod.namespace, TARGET, PORT)
        assert await newer.echo() == "hello"
        assert peers == [rig.nodes["gateway"].public_v4, spare.public_v4]
        assert pod.node.datapath.nat.cut(slot=1) >= 1
        with pytest.raises(ConnectionResetError):
            await client.echo(timeout=0.5)
        assert await newer.echo() == "hello"
        await client.reset()
        await newer.close()


async def test_a_new_connection_on_old_ports_is_decided_anew(rig: Rig) -> None:
    """The pin of a connection that is over does not bind the next one on the same ports, which nothing selects."""
    pod = steered_everywhere(rig)
    async with tcp_server(rig, rig.outside, TARGET, PORT) as peers:
        first = await Client.connect(rig, pod.namespace, TARGET, PORT, source_port=45_000)
        assert await first.echo() == "hello"
        await first.reset()
        for node in rig.nodes.values():
            node.datapath.policy.replace([])
        second = await Client.connect(rig, pod.namespace, TARGET, PORT, source_port=45_000)
        assert await second.echo() == "hello"
        assert peers == [rig.nodes["gateway"].public_v4, pod.node.v4]
        await second.reset()


async def test_without_pinning_a_change_cuts_at_once(rig: Rig) -> None:
    pod = steered_everywhere(rig)
    for node in rig.nodes.values():
        node.datapath.configure(node.config(pin_flows=False))
    async with tcp_server(rig, rig.outside, TARGET, PORT):
        client = await Client.connect(rig, pod.namespace, TARGET, PORT)
        assert await client.echo() == "hello"
        rig.select(pod, "0.0.0.0/0", gateway="spare", slot=2)
        with pytest.raises(ConnectionResetError):
            await client.echo(timeout=0.5)
        await client.reset()


async def test_a_replicated_connection_outlives_its_gateway(rig: Rig) -> None:
    """A virtual address moves to a standby that was given the flows: one slot write a node, and TCP goes on."""
    pod = rig.nodes["source"].pods[0]
    rig.select(pod, "0.0.0.0/0", gateway="gateway", source_v4=VIRTUAL, source_v6=None)
    await answer_for_virtual(rig, "gateway")
    async with tcp_server(rig, rig.outside, TARGET, PORT) as peers:
        client = await Client.connect(rig, pod.namespace, TARGET, PORT)
        assert await client.download(1_000_000)
        active, standby = rig.nodes["gateway"].datapath, rig.nodes["spare"].datapath
        flows = [flow for flow in active.nat.items() if flow.kind is FlowKind.TRANSLATED]
        assert standby.nat.insert(flows) == len(flows) == 1
        active.slots.delete(1)
        spare = rig.nodes["spare"]
        standby.slots.set(1, GatewaySlot(spare.v4, source_v4=VIRTUAL, ifindex=spare.links["eth1"], local=True))
        pod.node.datapath.slots.set(1, GatewaySlot(spare.v4))
        await answer_for_virtual(rig, "spare")
        assert await client.download(1_000_000)
        assert await client.echo("alive") == "alive"
        assert peers == [VIRTUAL]
        await client.close()


async def answer_for_virtual(rig: Rig, gateway: str) -> None:
    node = rig.nodes[gateway]
    mac = (await node.netlink.link("get", index=node.links["eth1"]))[0].get("address")
    await rig.run(rig.outside, "ip", "neigh", "replace", str(VIRTUAL), "lladdr", mac, "dev", "eth1")


async def test_flows_expire_by_protocol_and_state(rig: Rig) -> None:
    pod = steered_everywhere(rig)
    table = rig.nodes["gateway"].datapath.nat
    async with tcp_server(rig, rig.outside, TARGET, PORT):
        client = await Client.connect(rig, pod.namespace, TARGET, PORT, source_port=43_001)
        await client.echo()
        closed = await Client.connect(rig, pod.namespace, TARGET, PORT, source_port=43_002)
        await closed.echo()
        await closed.close()
        await rig.run(pod.namespace, "ping", "-c", "1", "-W", "2", str(TARGET))
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        assert not any(table.expire(now + 20_000_000_000))
        gone = [flow for step in table.expire(now + 100_000_000_000) for flow in step]
        assert sorted(flow.key.protocol.name for flow in gone) == ["ICMP", "TCP"]
        assert 43_002 in {flow.key.local_port for flow in gone}
        assert {flow.key.local_port for flow in table.items()} == {43_001}
        assert await client.echo("still") == "still"
        await client.close()


async def test_deleting_a_pod_takes_both_halves(rig: Rig) -> None:
    pod = steered_everywhere(rig)
    await rig.run(pod.namespace, "ping", "-c", "1", "-W", "2", str(TARGET))
    table = rig.nodes["gateway"].datapath.nat
    assert table.delete_pod(pod.v4) == 2
    assert list(table.items()) == []


async def test_replacement_touches_only_the_difference(rig: Rig) -> None:
    policy = rig.nodes["spare"].datapath.policy
    first = [PolicyEntry(ip_address(f"10.244.9.{n}"), ip_network("0.0.0.0/0"), 1) for n in range(1, 11)]
    assert policy.replace(first).written == 10
    second = [*first[:9], PolicyEntry(ip_address("10.244.9.99"), ip_network("1.2.3.0/24"), 7, excluded=True)]
    difference = policy.replace(second)
    assert (difference.written, difference.removed) == (1, 1)
    assert sorted(map(str, policy.items())) == sorted(map(str, second))
    found = policy.get(ip_address("10.244.9.99"), ip_address("1.2.3.4"))
    assert found and (found.slot, found.excluded) == (7, True)
