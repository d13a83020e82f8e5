"""A traced packet says what a real one would meet, and leaves nothing behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from egresslab.cli.tracing import as_data
from egresslab.datapath.testing import Node, Rig
from egresslab.datapath.tracing import trace
from egresslab.datapath.values import FlowKind, GatewaySlot, IPAddress, PolicyEntry, Protocol, Reason
from egresslab.datapath.verdicts import MEANING
from egresslab.errors import DatapathError

from .leasing import LEASE, grant, lead_to
from .traffic import Client, tcp_server
from .worker import Bench

BACKGROUND = {Reason.NOT_OURS, Reason.IN_CLUSTER}
"""Reasons that every link's own chatter is counted under."""
REMOTE, REMOTE_V6 = "203.0.113.10", "2001:db8:113::10"


def test_every_reason_has_words() -> None:
    assert set(MEANING) == set(Reason)


@pytest.fixture
def quiet(rig: Rig) -> Iterator[Rig]:
    """A rig whose maps and records must be as they were when the test is over."""

    def state(node: Node) -> tuple[object, ...]:
        counters = {key: count for key, count in node.datapath.counters.read().items() if key[1] not in BACKGROUND}
        return {flow.key: flow.kind for flow in node.datapath.nat.items()}, counters, node.datapath.flows.lost

    for node in rig.nodes.values():
        node.datapath.flows.read(lambda _: None)
    before = {name: state(node) for name, node in rig.nodes.items()}
    yield rig
    events: list[object] = []
    for name, node in rig.nodes.items():
        node.datapath.flows.read(events.append)
        assert state(node) == before[name]
    assert events == []


@pytest.fixture(scope="module")
def benches(shared_rig: Rig) -> Iterator[dict[str, Bench]]:
    """A process in each node's namespace."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(Bench(node)) for name, node in shared_rig.nodes.items() if name != "spare"}


def traced(bench: Bench, pod: IPAddress, destination: str, *more: Any) -> dict[str, Any]:
    """The trace in the node's namespace, as `-o json` prints it. `more`: protocol, port, source port."""
    protocol, port, source_port = (*more, *(Protocol.TCP, 443, None)[len(more) :])
    job = bench.pool.submit(trace, bench.node.pin_dir, pod, ip_address(destination), protocol, port, source_port)
    return as_data(job.result(timeout=60))


def lookups(found: dict[str, Any]) -> dict[str, str]:
    return {step["lookup"]: step["found"] for step in found["steps"]}


def changes(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["field"]: (each["before"], each["after"]) for each in found["rewritten"]}


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("version", [4, 6])
async def test_a_steered_packet_is_followed_to_its_gateway_and_out(
    quiet: Rig, benches: dict[str, Bench], version: int
) -> None:
    pod, gateway = quiet.nodes["source"].pods[0], quiet.nodes["gateway"]
    quiet.select(pod, "203.0.113.0/24", "2001:db8:113::/48", gateway="gateway")
    address, target = (pod.v4, REMOTE) if version == 4 else (pod.v6, REMOTE_V6)
    network = "203.0.113.0/24" if version == 4 else "2001:db8:113::/48"
    here = traced(benches["source"], address, target)
    assert (here["program"], here["verdict"], here["reason"], here["dropped"]) == (
        "from_pod", "REDIRECT", "STEERED", False
    )  # fmt: skip
    seen = lookups(here)
    assert list(seen) == ["cluster_cidrs", "endpoints", "nat", "egress_policy", "gateway_slots"]
    assert seen["cluster_cidrs"] == "outside the cluster"
    assert seen["endpoints"] == f"link veth10 ({pod.ifindex}); ready"
    assert seen["egress_policy"] == f"{network}: slot 1"
    assert seen["gateway_slots"] == f"gateway {gateway.v4}"
    assert changes(here) == {"MSS": ("1460", "1410") if version == 4 else ("1440", "1390")}
    assert str(gateway.v4) in here["next"]

    there = traced(benches["gateway"], address, target, Protocol.TCP, 8443, 40_000)
    assert (there["program"], there["reason"], there["existing_flow"]) == ("from_overlay", "TRANSLATED", False)
    egress = gateway.public_v4 if version == 4 else gateway.public_v6
    assert changes(there) == {"source": (str(address), str(egress)), "hop limit": ("64", "63")}
    assert there["next"] == (
        f"out by link eth1 ({gateway.links['eth1']}); outside sees {egress if version == 4 else f'[{egress}]'}:40000;"
        f" replies go back through the tunnel to {pod.node.v4}"
    )


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_each_way_of_not_leaving_stops_at_the_lookup_that_decided(quiet: Rig, benches: dict[str, Bench]) -> None:
    pod = quiet.nodes["source"].pods[0]
    node = pod.node
    cases = (
        (["10.244.9.9"], "IN_CLUSTER", "cluster_cidrs"),
        ([REMOTE], "NO_ENTRY", "egress_policy"),
        ([REMOTE, Protocol.UDP], "NO_ENTRY", "egress_policy"),
        (["198.51.100.1", Protocol.ICMP], "EXCLUDED", "egress_policy"),
        (["192.0.2.1"], "NO_GATEWAY", "gateway_slots"),
    )
    node.datapath.policy.replace(
        [
            PolicyEntry(pod.v4, ip_network("198.51.100.0/24"), 1, excluded=True),
            PolicyEntry(pod.v4, ip_network("192.0.2.0/24"), 9),
        ]
    )
    for arguments, reason, last in cases:
        found = traced(benches["source"], pod.v4, *arguments)
        assert (found["reason"], found["steps"][-1]["lookup"]) == (reason, last)
        assert found["rewritten"] == []
        assert found["dropped"] is (reason == "NO_GATEWAY")
    endpoint = node.datapath.endpoints.get(pod.v4)
    assert endpoint
    node.datapath.endpoints.set(pod.v4, replace(endpoint, ready=False))
    try:
        found = traced(benches["source"], pod.v4, REMOTE)
        assert (found["reason"], found["steps"][-1]["lookup"]) == ("NOT_READY", "endpoints")
    finally:
        node.datapath.endpoints.set(pod.v4, endpoint)


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_a_lease_is_part_of_the_way(leased: Rig, benches: dict[str, Bench]) -> None:
    gateway = leased.nodes["gateway"]
    pod = gateway.pods[0]
    found = traced(benches["gateway"], pod.v4, REMOTE)
    assert (found["reason"], lookups(found)["holders"]) == ("NO_GATEWAY", "nobody")
    lead_to(leased, "gateway", epoch=3)
    found = traced(benches["gateway"], pod.v4, REMOTE)
    assert (found["reason"], lookups(found)["leases"]) == ("NOT_HOLDER", "has ended")
    assert lookups(found)["holders"] == f"{gateway.v4} (this node), epoch 3"
    grant(gateway, 60_000, epoch=3)
    found = traced(benches["gateway"], pod.v4, REMOTE)
    assert found["reason"] == "TRANSLATED"
    assert lookups(found)["leases"].startswith("held for 5")
    assert lookups(found)["gateway_slots"].startswith(f"whoever holds lease {LEASE}, source {gateway.public_v4}")


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_a_flow_that_is_there_is_gone_on_with_and_kept(rig: Rig, benches: dict[str, Bench]) -> None:
    """A SYN on its ports would begin it anew: the trace is its next packet instead, and the connection lives on."""
    gateway = rig.nodes["gateway"]
    pod = gateway.pods[0]
    rig.select(pod, "0.0.0.0/0", gateway="gateway")
    target = ip_address(REMOTE)
    async with tcp_server(rig, rig.outside, target, 8087):
        client = await Client.connect(rig, pod.namespace, target, 8087, source_port=44_000)
        assert await client.echo() == "hello"
        found = traced(benches["gateway"], pod.v4, REMOTE, Protocol.TCP, 8087, 44_000)
        assert (found["existing_flow"], found["reason"]) == (True, "TRANSLATED")
        assert lookups(found)["nat"] == f"TRANSLATED, slot 1, as {gateway.public_v4}:44000"
        kinds = sorted(flow.kind for flow in gateway.datapath.nat.items())
        assert kinds == [FlowKind.TRANSLATED, FlowKind.REPLY]
        assert await client.echo("still") == "still"
        await client.reset()


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_the_table_is_for_reading(rig: Rig) -> None:
    node = rig.nodes["source"]
    pod = node.pods[0]
    node.datapath.slots.set(1, GatewaySlot(rig.nodes["gateway"].v4))
    node.datapath.policy.replace([PolicyEntry(pod.v4, ip_network("0.0.0.0/0"), 1)])
    command = (sys.executable, "-m", "egresslab.cli.debugger", "trace", "--pin-dir", str(node.pin_dir))
    text = await rig.run(node.namespace, *command, str(pod.v4), REMOTE)
    lines = text.splitlines()
    assert lines[0].startswith(f"TCP {pod.v4}:") and lines[0].endswith("the first packet of a flow, through from_pod")
    assert [line.split()[0] for line in lines[2:8]] == [
        "LOOKUP", "cluster_cidrs", "endpoints", "nat", "egress_policy", "gateway_slots"
    ]  # fmt: skip
    assert "REDIRECT: STEERED (6)" in lines
    assert lines[-1].startswith(f"Next: through the tunnel to {rig.nodes['gateway'].v4}")
    assert "no address" in await rig.run(node.namespace, *command, str(pod.v4), "example.org", check=False)


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_what_cannot_be_traced_is_said(rig: Rig, benches: dict[str, Bench]) -> None:
    for pod, target, words in (
        (ip_address("10.244.99.99"), REMOTE, "knows no pod of that address"),
        (rig.nodes["source"].pods[0].v4, REMOTE_V6, "of another family"),
    ):
        with pytest.raises(DatapathError, match=words):
            traced(benches["source"], pod, target)
