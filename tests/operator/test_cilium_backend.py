"""With Cilium as the backend, Cilium's policies lead to the node that was seen to hold, and to nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from egresslab.api.connection import ApiError
from egresslab.api.resources import (
    CILIUM_POLICIES,
    CONFIGMAPS,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    Object,
)
from tests.operator.conftest import NAMES, Cluster, condition, gateway, until

OURS, THEIRS = "egresslab.dev/v1alpha1/out", "network.deckhouse.io/v1alpha1/out"
V4, V6 = "web-egresslab-ipv4", "web-egresslab-ipv6"
VIRTUAL = {"virtualIPs": ["192.168.60.200", "fd00:60::200"]}


def policy(name: str = "web", **spec: Any) -> Object:
    return {
        "apiVersion": "egresslab.dev/v1alpha1",
        "kind": "EgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "egressGatewayName": "out",
            "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "destinationCIDRs": ["0.0.0.0/0", "::/0"],
            **spec,
        },
    }


@pytest.fixture
async def cilium(cluster: Cluster) -> AsyncIterator[Cluster]:
    """Announcers on every node, two candidates, and the setting."""
    for name in NAMES:
        await cluster.agent(name, daemon="egresslab-announcer")
    for name in ("lab-worker2", "lab-worker3"):
        await cluster.node(name, egress="true")
    await cluster.api.create(
        CONFIGMAPS, {"metadata": {"name": "egresslab-config"}, "data": {"backend": "cilium"}}, "kube-system"
    )
    yield cluster


async def found(cluster: Cluster, name: str) -> Any:
    try:
        return await cluster.api.get(CILIUM_POLICIES, name)
    except ApiError as error:
        assert error.status == 404
        return None


def leads(cluster: Cluster, name: str, hostname: str | None, **more: Any) -> Callable[[], Any]:
    """The object, once it leads there."""

    async def ask() -> Any:
        obj = await found(cluster, name)
        labels = obj["spec"]["egressGateway"]["nodeSelector"]["matchLabels"] if obj else None
        return (
            obj
            if labels == ({"kubernetes.io/hostname": hostname} if hostname else {"egresslab.dev/no-gateway": "true"})
            else None
        )

    return ask


async def test_objects_of_each_family_lead_to_the_holder_with_its_address(cilium: Cluster) -> None:
    cilium.agents.hold(OURS, "lab-worker3")
    await cilium.apply(gateway(source=VIRTUAL), EGRESSLAB_GATEWAYS)
    owner = await cilium.apply(policy(excludedCIDRs=["10.0.0.0/8"]), EGRESSLAB_POLICIES)
    async with cilium.operator():
        first = await until("the object", leads(cilium, V4, "lab-worker3"))
        second = await until("the other", leads(cilium, V6, "lab-worker3"))
        status = await until("the status", lambda: _programmed(cilium, "True"))
    assert first["spec"]["egressGateway"]["egressIP"] == "192.168.60.200"
    assert first["spec"]["excludedCIDRs"] == ["10.0.0.0/8"]
    assert first["spec"]["destinationCIDRs"] == ["0.0.0.0/0"]
    assert second["spec"]["egressGateway"]["egressIP"] == "fd00:60::200"
    assert [o["uid"] for o in first["metadata"]["ownerReferences"]] == [owner["metadata"]["uid"]]
    assert f"CiliumEgressGatewayPolicy/{V4}" in status["message"]


async def _programmed(cluster: Cluster, value: str) -> Any:
    said = condition(await cluster.status(EGRESSLAB_POLICIES, "web"), "Programmed")
    return said if said.get("status") == value else None


async def test_a_backend_that_rested_carries_out_the_first_policy_at_once(
    cilium: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour between two looks: what follows is brought about by events."""
    for module in ("ciliumbackend", "observer", "gatewayreports", "registrar"):
        monkeypatch.setattr(f"egresslab.operator.{module}.PERIOD_S", 3600.0)
    cilium.agents.hold(OURS, "lab-worker3")
    async with cilium.operator():
        await cilium.apply(gateway(source=VIRTUAL), EGRESSLAB_GATEWAYS)
        await until("the gateway's status", lambda: cilium.status(EGRESSLAB_GATEWAYS, "out"))
        await cilium.apply(policy(), EGRESSLAB_POLICIES)
        await until("the object", leads(cilium, V4, "lab-worker3"))
        await cilium.api.delete(EGRESSLAB_GATEWAYS, "out")
        await until("nowhere to lead", leads(cilium, V4, None))


async def test_deckhouse_gateways_are_carried_out_as_well(cilium: Cluster) -> None:
    cilium.agents.hold(THEIRS, "lab-worker2")
    mode = "PrimaryIPFromEgressGatewayNodeInterface"
    source = {"mode": mode, "primaryIPFromEgressGatewayNodeInterface": {"interfaceName": "eth1"}}
    for resource, kind, spec in (
        (DECKHOUSE_GATEWAYS, "EgressGateway", {"nodeSelector": {"egress": "true"}, "sourceIP": source}),
        (DECKHOUSE_POLICIES, "EgressGatewayPolicy", policy()["spec"]),
    ):
        name = "out" if kind == "EgressGateway" else "web"
        body = {"apiVersion": resource.api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}
        await cilium.apply(body, resource)
    async with cilium.operator():
        obj = await until("the object", leads(cilium, "web-deckhouse-ipv4", "lab-worker2"))
    assert obj["spec"]["egressGateway"]["interface"] == "eth1"


async def test_they_follow_a_holder_only_when_its_address_is_in_place(cilium: Cluster) -> None:
    cilium.agents.hold(OURS, "lab-worker2")
    await cilium.apply(gateway(source=VIRTUAL), EGRESSLAB_GATEWAYS)
    await cilium.apply(policy(), EGRESSLAB_POLICIES)
    async with cilium.operator():
        await until("the object", leads(cilium, V4, "lab-worker2"))
        cilium.agents.hold(OURS, "lab-worker3", epoch=2, silent=True)
        await until("the status", lambda: _active(cilium, "lab-worker3"))
        # The others' word is not enough either: they know nothing of its address.
        cilium.agents.hold(OURS, "lab-worker3", epoch=2)
        cilium.agents.reports["lab-worker3"] = None
        await asyncio.sleep(1.5)  # at least one more round of questions
        before = await found(cilium, V4)
        assert before["spec"]["egressGateway"]["nodeSelector"]["matchLabels"] == {
            "kubernetes.io/hostname": "lab-worker2"
        }
        cilium.agents.hold(OURS, "lab-worker3", epoch=2, dead=("lab-worker2",))
        await until("the object to follow", leads(cilium, V4, "lab-worker3"))


async def _active(cluster: Cluster, node: str) -> bool:
    return bool((await cluster.status(EGRESSLAB_GATEWAYS, "out")).get("activeNode") == node)


async def test_while_nobody_answers_nothing_moves_and_without_a_holder_packets_are_dropped(
    cilium: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egresslab.operator.ciliumbackend.BETWEEN_HOLDERS_S", 0.5)
    cilium.agents.hold(OURS, "lab-worker2")
    await cilium.apply(gateway(source=VIRTUAL), EGRESSLAB_GATEWAYS)
    await cilium.apply(policy(), EGRESSLAB_POLICIES)
    async with cilium.operator():
        await until("the object", leads(cilium, V4, "lab-worker2"))
        reports = dict(cilium.agents.reports)
        cilium.agents.reports = dict.fromkeys(NAMES)
        await until("the status to say so", lambda: _ready(cilium, "Unknown"))
        await cilium.apply(policy(destinationCIDRs=["203.0.113.0/24"]), EGRESSLAB_POLICIES)
        await until("the change", lambda: _destinations(cilium, ["203.0.113.0/24"]))
        await until("the object still", leads(cilium, V4, "lab-worker2"))
        cilium.agents.reports = reports
        cilium.agents.hold(OURS, None, epoch=2)
        await until("the object to lead to nobody", leads(cilium, V4, None))


async def _ready(cluster: Cluster, value: str) -> bool:
    return bool(condition(await cluster.status(EGRESSLAB_GATEWAYS, "out"), "Ready").get("status") == value)


async def _destinations(cluster: Cluster, wanted: list[str]) -> bool:
    return bool((await found(cluster, V4))["spec"]["destinationCIDRs"] == wanted)


async def test_what_is_changed_by_hand_is_put_back_and_told(cilium: Cluster) -> None:
    cilium.agents.hold(OURS, "lab-worker2")
    await cilium.apply(gateway(source=VIRTUAL), EGRESSLAB_GATEWAYS)
    await cilium.apply(policy(), EGRESSLAB_POLICIES)
    async with cilium.operator():
        obj = await until("the object", leads(cilium, V4, "lab-worker2"))
        # A list of gateways outranks the one that is ours, and is a field that nobody has applied before.
        item = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "lab-worker"}}}
        await cilium.api.patch(CILIUM_POLICIES, V4, {"spec": {"egressGateways": [item], "selectors": []}})
        await until("the event", lambda: cilium.events("PutBack"))

        async def back() -> bool:
            spec = (await found(cilium, V4))["spec"]
            return bool(not spec.get("egressGateways") and spec["selectors"] == obj["spec"]["selectors"])

        await until("it to be put back", back)
        await cilium.api.delete(CILIUM_POLICIES, V4)
        await until("it to be made again", leads(cilium, V4, "lab-worker2"))


async def test_what_is_not_wanted_any_more_goes_and_what_is_not_ours_stays(cilium: Cluster) -> None:
    cilium.agents.hold(OURS, "lab-worker2")
    foreign: Object = {"podSelector": {}}
    selector = {"matchLabels": {"kubernetes.io/hostname": "lab-worker"}}
    for name in (V6, "mine"):
        spec = {"selectors": [foreign], "destinationCIDRs": ["::/0"], "egressGateway": {"nodeSelector": selector}}
        body = {"apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicy", "metadata": {"name": name}}
        await cilium.apply({**body, "spec": spec}, CILIUM_POLICIES)
    await cilium.apply(gateway(source=VIRTUAL), EGRESSLAB_GATEWAYS)
    await cilium.apply(policy(), EGRESSLAB_POLICIES)
    async with cilium.operator():
        await until("the object", leads(cilium, V4, "lab-worker2"))
        said = await until("the status", lambda: _programmed(cilium, "False"))
        assert said["reason"] == "NameTaken"
        await until("the event", lambda: cilium.events("NameTaken"))
        config = {"metadata": {"name": "egresslab-config", "namespace": "kube-system"}, "data": {}}
        await cilium.api.replace(CONFIGMAPS, config)

        async def gone() -> bool:
            return await found(cilium, V4) is None

        await until("ours to go with the setting", gone)
    for name in (V6, "mine"):
        assert (await found(cilium, name))["spec"]["egressGateway"]["nodeSelector"] == selector


async def test_what_cilium_has_no_words_for_is_said(cilium: Cluster) -> None:
    cilium.agents.hold(OURS, "lab-worker2")
    await cilium.apply(gateway(source={"virtualIPs": ["192.168.60.200"]}), EGRESSLAB_GATEWAYS)
    await cilium.apply(policy(destinationDomains=["api.example.com"], priority=7), EGRESSLAB_POLICIES)
    async with cilium.operator():
        said = await until("the status", lambda: _programmed(cilium, "False"))
        await until("the object of the other family to drop", leads(cilium, V6, None))
    assert said["reason"] == "NotInCilium"
    for words in ("destinationDomains", "priority", "no ipv6 address"):
        assert words in said["message"]
