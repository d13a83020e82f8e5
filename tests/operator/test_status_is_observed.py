"""A gateway's status says what its nodes answered, never what the objects wish for; what happens is told once."""

from __future__ import annotations

import copy
import time
from ipaddress import ip_address

import pytest

from egresslab.api.resources import DECKHOUSE_GATEWAYS, EGRESSLAB_GATEWAYS, NODES, Object, Resource
from egresslab.voter.files import Cause, Conflict, Failover
from tests.operator.conftest import NAMES, Cluster, condition, gateway, kubectl, until

OURS, THEIRS = "egresslab.dev/v1alpha1/out", "network.deckhouse.io/v1alpha1/out"
VIRTUAL = {"virtualIPs": ["192.168.60.200"]}
DECKHOUSE: Object = {
    "apiVersion": "network.deckhouse.io/v1alpha1",
    "kind": "EgressGateway",
    "metadata": {"name": "out"},
    "spec": {
        "nodeSelector": {"egress": "true"},
        "sourceIP": {"mode": "VirtualIPAddress", "virtualIPAddress": {"ip": "192.168.60.200"}},
    },
}
DIALECTS = [
    (EGRESSLAB_GATEWAYS, gateway(source=VIRTUAL), OURS, "activeNode"),
    (DECKHOUSE_GATEWAYS, DECKHOUSE, THEIRS, "activeNodeName"),
]
dialects = pytest.mark.parametrize(("resource", "body", "key", "field"), DIALECTS, ids=["ours", "deckhouse"])


async def two_candidates(cluster: Cluster) -> None:
    for name in ("lab-worker2", "lab-worker3"):
        await cluster.node(name, egress="true")


def failover(origin: str, target: str, cause: Cause = Cause.LOST, at: float = 0.0) -> Failover:
    return Failover(at or time.time(), origin, target, cause, 187.4)


@dialects
async def test_the_active_node_is_whoever_holds_the_lease(
    cluster: Cluster, resource: Resource, body: Object, key: str, field: str
) -> None:
    await two_candidates(cluster)
    cluster.agents.hold(key, "lab-worker3")
    await cluster.apply(body, resource)
    async with cluster.operator():
        status = await until("the status", lambda: cluster.status(resource, "out"))
    assert status[field] == "lab-worker3"
    assert (status["readyNodes"], status["observedGeneration"]) == (2, 1)
    ready = condition(status, "Ready")
    assert ready["status"] == "True"
    assert ready["message"] in (
        "lab-worker2 stands by; lab-worker3 is active",
        "lab-worker3 is active; lab-worker2 stands by",
    )
    if resource is DECKHOUSE_GATEWAYS:
        assert ready["reason"] == "ElectionSucceedAndVirtualIPAnnounced"
    else:
        assert condition(status, "Announced")["status"] == "True"
        assert condition(status, "AddressConflict")["status"] == "False"


@dialects
async def test_nobody_is_reported_active_while_too_few_nodes_answer(
    cluster: Cluster, resource: Resource, body: Object, key: str, field: str
) -> None:
    await two_candidates(cluster)
    cluster.agents.reports = dict.fromkeys(NAMES)
    await cluster.apply(body, resource)
    async with cluster.operator():
        status = await until("the status", lambda: cluster.status(resource, "out"))
    assert field not in status
    assert condition(status, "Ready")["status"] == "Unknown"


@dialects
async def test_a_failover_is_told_once_with_its_cause(
    cluster: Cluster, resource: Resource, body: Object, key: str, field: str
) -> None:
    await two_candidates(cluster)
    cluster.agents.hold(key, "lab-worker2")
    await cluster.apply(body, resource)

    async def active() -> str:
        return str((await cluster.status(resource, "out")).get(field))

    async with cluster.operator():
        before = await until("a status", lambda: cluster.status(resource, "out"))
        moved = failover("lab-worker2", "lab-worker3")
        cluster.agents.hold(key, "lab-worker3", epoch=2, dead=("lab-worker2",), last_failover=moved)
        await until("the other node", lambda: _is(active(), "lab-worker3"))
    async with cluster.operator():
        cluster.agents.hold(key, "lab-worker3", epoch=2, last_failover=moved)

        async def whole() -> bool:
            return bool((await cluster.status(resource, "out"))["readyNodes"] == 2)

        await until("two nodes again", whole)
    told = await cluster.events("FailedOver")
    assert told == ["from lab-worker2 to lab-worker3 (GatewayLost, 187 ms without a gateway)"]
    assert await cluster.events("NoGateway") == []
    status = await cluster.status(resource, "out")
    stood = condition(before, "Ready")["lastTransitionTime"]
    assert condition(status, "Ready")["lastTransitionTime"] == stood
    if resource is EGRESSLAB_GATEWAYS:
        last = status["lastFailover"]
        assert (last["from"], last["to"], last["cause"]) == ("lab-worker2", "lab-worker3", "GatewayLost")
        assert last["outageMilliseconds"] == 187


async def _is(asked: object, wanted: str) -> bool:
    return bool(await asked == wanted)  # type: ignore[misc]


async def test_a_planned_move_is_no_failover(cluster: Cluster) -> None:
    await two_candidates(cluster)
    cluster.agents.hold(OURS, "lab-worker2")
    await cluster.apply(gateway(), EGRESSLAB_GATEWAYS)
    async with cluster.operator():
        await until("a status", lambda: cluster.status(EGRESSLAB_GATEWAYS, "out"))
        moved = failover("lab-worker2", "lab-worker3", Cause.UNFIT)
        cluster.agents.hold(OURS, "lab-worker3", epoch=2, last_failover=moved)
        (message,) = await until("the event", lambda: cluster.events("Moved"))
    assert "NoLongerEligible" in message
    assert await cluster.events("FailedOver") == []


async def test_why_a_node_is_not_eligible_can_be_read(cluster: Cluster) -> None:
    await two_candidates(cluster)
    cluster.agents.hold(OURS, "lab-worker2")
    await cluster.apply(gateway(), EGRESSLAB_GATEWAYS)
    await cluster.api.patch(NODES, "lab-worker3", {"spec": {"unschedulable": True}})
    async with cluster.operator():
        await until("a status", lambda: cluster.status(EGRESSLAB_GATEWAYS, "out"))
        described = kubectl(cluster.server, "describe", "egressgateways.egresslab.dev", "out").stdout
        assert "lab-worker2 is active; is cordoned" in described.replace("lab-worker3 is", "is")
        listed = kubectl(cluster.server, "get", "egressgateways.egresslab.dev", "out").stdout.splitlines()[1]
    assert listed.split()[:4] == ["out", "Standby", "lab-worker2", "1"]


async def test_a_gateway_without_nodes_says_so_and_that_it_is_back(cluster: Cluster) -> None:
    await cluster.node("lab-worker2", egress="true")
    cluster.agents.hold(OURS, "lab-worker2")
    await cluster.apply(gateway(), EGRESSLAB_GATEWAYS)
    async with cluster.operator():
        await until("a status", lambda: cluster.status(EGRESSLAB_GATEWAYS, "out"))
        cluster.agents.hold(OURS, None, epoch=2, dead=("lab-worker2",))
        (gone,) = await until("the event", lambda: cluster.events("NoGateway"))
        assert gone == "lab-worker2 does not answer the voters"
        await until("nobody in the status", lambda: _nobody_active(cluster))
        cluster.agents.hold(OURS, "lab-worker2", epoch=3)
        assert await until("the event", lambda: cluster.events("Recovered")) == ["lab-worker2 is active"]


async def _nobody_active(cluster: Cluster) -> bool:
    return "activeNode" not in await cluster.status(EGRESSLAB_GATEWAYS, "out")


@dialects
async def test_somebody_elses_claim_to_the_address_is_told(
    cluster: Cluster, resource: Resource, body: Object, key: str, field: str
) -> None:
    await two_candidates(cluster)
    cluster.agents.hold(key, "lab-worker2")
    await cluster.apply(body, resource)
    async with cluster.operator():
        await until("a status", lambda: cluster.status(resource, "out"))
        claim = Conflict(ip_address("192.168.60.200"), "02:00:00:00:00:99", "eth0", time.time())
        cluster.agents.hold(key, "lab-worker2", conflicts=(claim,))
        told = await until("the event", lambda: cluster.events("AddressConflict"))
        assert told == ["02:00:00:00:00:99 claims 192.168.60.200 on eth0"]
        if resource is EGRESSLAB_GATEWAYS:
            status = await until("the status", lambda: _claimed(cluster))
            assert status["activeNode"] == "lab-worker2"


async def _claimed(cluster: Cluster) -> Object | None:
    status: Object = await cluster.status(EGRESSLAB_GATEWAYS, "out")
    return status if condition(status, "AddressConflict").get("status") == "True" else None


async def test_a_spread_gateway_has_as_many_gateways_as_eligible_nodes(cluster: Cluster) -> None:
    await two_candidates(cluster)
    await cluster.apply(gateway(mode="Spread"), EGRESSLAB_GATEWAYS)
    async with cluster.operator():
        status = await until("a status", lambda: cluster.status(EGRESSLAB_GATEWAYS, "out"))
    assert status["readyNodes"] == 2 and "activeNode" not in status
    assert condition(status, "Ready")["reason"] == "NodesReady"


async def test_a_gateway_that_was_refused_says_why(cluster: Cluster) -> None:
    await two_candidates(cluster)
    wrong = copy.deepcopy(DECKHOUSE)
    wrong["spec"]["sourceIP"]["virtualIPAddress"]["ip"] = "192.168.60.300"
    await cluster.apply(wrong, DECKHOUSE_GATEWAYS)
    async with cluster.operator():
        status = await until("a status", lambda: cluster.status(DECKHOUSE_GATEWAYS, "out"))
        assert condition(status, "Ready")["status"] == "False"
        assert "192.168.60.300" in condition(status, "Ready")["message"]
        cluster.agents.hold(THEIRS, "lab-worker2")
        await cluster.apply(DECKHOUSE, DECKHOUSE_GATEWAYS)
        await until("an active node", lambda: _is(_active(cluster), "lab-worker2"))
        await cluster.apply(wrong, DECKHOUSE_GATEWAYS)

        async def refused() -> bool:
            ready = condition(await cluster.status(DECKHOUSE_GATEWAYS, "out"), "Ready")
            return ready["status"] == "True" and "not in force" in ready["message"]

        await until("the older version in force", refused)


async def _active(cluster: Cluster) -> str:
    return str((await cluster.status(DECKHOUSE_GATEWAYS, "out")).get("activeNodeName"))
