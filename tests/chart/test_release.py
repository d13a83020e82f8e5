"""What helm asks of a release: is it complete, and clear the nodes before it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from egresslab.api.connection import Api, ApiError, connect
from egresslab.api.resources import CONFIGMAPS, DAEMONSETS, DEPLOYMENTS, LEASES, PODS
from egresslab.cluster.testing import RunningServer, running_server
from egresslab.environments.definitions import definitions
from egresslab.operator import release

NAMESPACE = "kube-system"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("release")) as running:
        yield running


@pytest.fixture
async def api(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """Operators and agents that are there as objects."""
    monkeypatch.setattr(release, "PAUSE_S", 0.02)
    files = definitions("netns") / "manifests"
    async with connect(server.kubeconfig) as found:
        for name, resource in (("agent", DAEMONSETS), ("operator", DEPLOYMENTS)):
            objects = yaml.safe_load_all(Path(files, f"{name}.yaml").read_text())
            (workload,) = [obj for obj in objects if obj["kind"] == resource.kind]
            await found.apply(resource, workload, field_manager="test")
        names = {release.RELEASE: {"state": "installed"}, release.VOTERS: {"voters": "a"}}
        for name, data in names.items():
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}}
            await found.apply(CONFIGMAPS, {**body, "data": data}, field_manager="test")
        yield found
        for resource in (DEPLOYMENTS, DAEMONSETS, CONFIGMAPS, LEASES, PODS):
            for obj in (await found.list(resource, NAMESPACE))[0]:
                if obj["metadata"]["name"].startswith("egresslab"):
                    try:
                        await found.delete(resource, obj["metadata"]["name"], NAMESPACE, grace_period_s=0)
                    except ApiError as error:
                        assert error.status == 404, error


async def told(api: Api, resource: Any, name: str, **status: int) -> None:
    await api.patch(resource, name, {"status": status}, NAMESPACE, subresource="status")


async def hold(api: Api, holder: str | None, ago: timedelta = timedelta()) -> None:
    renewed = (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "egresslab-operator", "namespace": NAMESPACE},
        "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15},
    }
    await api.apply(LEASES, body, field_manager="test")


async def test_it_says_what_is_missing_and_ends_when_nothing_is(api: Api) -> None:
    assert any("no operator leads" in line for line in await release.troubles(api))
    await hold(api, "a", ago=timedelta(minutes=1))
    assert any("no operator leads" in line for line in await release.troubles(api)), "a lease that nobody renews"
    await hold(api, "a")
    await told(
        api,
        DAEMONSETS,
        "egresslab-agent",
        desiredNumberScheduled=4,
        numberReady=3,
        currentNumberScheduled=4,
        numberMisscheduled=0,
    )
    await told(api, DEPLOYMENTS, "egresslab-operator", replicas=1, readyReplicas=1)
    assert "3 of 4 agents are ready" in await release.troubles(api)
    checking = asyncio.create_task(release.check(api))
    await told(
        api,
        DAEMONSETS,
        "egresslab-agent",
        desiredNumberScheduled=4,
        numberReady=4,
        currentNumberScheduled=4,
        numberMisscheduled=0,
    )
    await told(api, DEPLOYMENTS, "egresslab-operator", replicas=1, readyReplicas=1)
    await asyncio.wait_for(checking, 10)


async def test_the_end_stops_operators_first_and_waits_for_every_agent(api: Api) -> None:
    await hold(api, "a")
    await told(
        api,
        DAEMONSETS,
        "egresslab-agent",
        desiredNumberScheduled=2,
        numberReady=2,
        currentNumberScheduled=2,
        numberMisscheduled=0,
    )
    ending = asyncio.create_task(release.end(api))
    async with asyncio.timeout(10):
        while (await api.get(CONFIGMAPS, release.RELEASE, NAMESPACE))["data"]["state"] != release.ENDING:
            await asyncio.sleep(0.02)
            await told(api, DEPLOYMENTS, "egresslab-operator", replicas=0, readyReplicas=0)
    assert (await api.get(DEPLOYMENTS, "egresslab-operator", NAMESPACE))["spec"]["replicas"] == 0
    for resource, name in ((LEASES, "egresslab-operator"), (CONFIGMAPS, release.VOTERS)):
        with pytest.raises(ApiError) as caught:
            await api.get(resource, name, NAMESPACE)
        assert caught.value.status == 404
    assert not ending.done(), "two agents still have programs on their nodes"
    await told(
        api,
        DAEMONSETS,
        "egresslab-agent",
        desiredNumberScheduled=2,
        numberReady=0,
        currentNumberScheduled=2,
        numberMisscheduled=0,
    )
    await asyncio.wait_for(ending, 10)
