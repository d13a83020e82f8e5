"""The voters' ConfigMap is there as soon as the operator acts, and changes only when every node knows the last one."""

from __future__ import annotations

import pytest

from egresslab.api.resources import CONFIGMAPS, EGRESSLAB_GATEWAYS
from egresslab.api.voters import NAME, NAMESPACE, parse_voters
from egresslab.operator import registrar
from tests.operator.conftest import NAMES, Cluster, gateway, until, voters_of


async def test_voters_exist_before_any_gateway_and_whoever_answers(cluster: Cluster) -> None:
    cluster.agents.reports = dict.fromkeys(NAMES)
    async with cluster.operator():
        voters = await until("voters", lambda: voters_of(cluster))
    assert voters == ("lab-control-plane", "lab-worker", "lab-worker2")


async def test_a_lost_voter_is_replaced_in_two_steps_each_known_everywhere(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar, "PATIENCE_S", 0.2)
    monkeypatch.setattr(registrar, "SHORTEST_REIGN_S", 0.1)
    async with cluster.operator():
        await until("voters", lambda: voters_of(cluster))
        await cluster.node("lab-worker", ready=False)
        between = ("lab-control-plane", "lab-worker2")
        await until("one voter less", lambda: _equal(cluster, between))
        cluster.agents.count_by(2)
        await until("another voter", lambda: _equal(cluster, (*between, "lab-worker3")))
    found = parse_voters(await cluster.api.get(CONFIGMAPS, NAME, NAMESPACE))
    assert found.version == 3


async def test_voters_stay_while_a_node_counts_by_older_ones(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrar, "PATIENCE_S", 0.0)
    monkeypatch.setattr(registrar, "SHORTEST_REIGN_S", 0.0)
    monkeypatch.setattr(registrar, "PERIOD_S", 0.05)
    cluster.agents.count_by(0)
    async with cluster.operator():
        first = await until("voters", lambda: voters_of(cluster))
        await cluster.node("lab-worker", ready=False)
        await cluster.apply(gateway(), EGRESSLAB_GATEWAYS)
        # The operator has taken in the node's state when the gateway that came after it has a status.
        await until("a status", lambda: cluster.status(EGRESSLAB_GATEWAYS, "out"))
        assert await voters_of(cluster) == first
        cluster.agents.count_by(1)
        await until("a change", lambda: _differs(cluster, first))


async def test_a_deleted_configmap_comes_back_as_it_was(cluster: Cluster) -> None:
    async with cluster.operator():
        first = await until("voters", lambda: voters_of(cluster))
        await cluster.api.delete(CONFIGMAPS, NAME, NAMESPACE)
        assert await until("voters again", lambda: voters_of(cluster)) == first


async def _equal(cluster: Cluster, wanted: tuple[str, ...]) -> bool:
    return await voters_of(cluster) == wanted


async def _differs(cluster: Cluster, first: tuple[str, ...]) -> bool:
    return await voters_of(cluster) != first
