"""The controllers over a connection that delays what they are told, breaks off, and loses answers of what was done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from egresslab.api.connection import Api, ApiError, Unreachable, connect
from egresslab.api.resources import EVENTS, REPLICASETS, Object, Resource
from egresslab.cluster.controllers import control
from egresslab.cluster.testing import running_server
from tests.cluster.controllers.conftest import Cluster, daemonset, deployment
from tests.cluster.controllers.hollow import HollowKubelets


class BadLine(Api):
    """Requests may fail before or after they were carried out; news come late, and sometimes the watch breaks off.

    It also keeps count of what was asked and refused, by verb and kind.
    """

    def __init__(self, good: Api, rng: random.Random) -> None:
        super().__init__(good._access, good._session)
        self._rng = rng
        self.refused: list[tuple[str, str, int]] = []

    async def _json(self, method: str, path: str, body: object = None, **options: Any) -> Object:
        await asyncio.sleep(self._rng.uniform(0, 0.004))
        writes = method != "GET"
        if writes and self._rng.random() < 0.1:
            raise Unreachable("lost on the way there", object=path)
        try:
            answer = await super()._json(method, path, body, **options)
        except ApiError as error:
            self.refused.append((method, path, error.status))
            raise
        if writes and self._rng.random() < 0.1:
            raise Unreachable("lost on the way back", object=path)
        return answer

    async def watch(
        self, resource: Resource, resource_version: str, namespace: str | None = None, **options: Any
    ) -> AsyncIterator[Object]:
        lateness = self._rng.choice((0.0, 0.02, 0.15))
        async for event in super().watch(resource, resource_version, namespace, **options):
            if self._rng.random() < 0.02:
                raise Unreachable("the watch broke off", object=resource.plural)
            await asyncio.sleep(self._rng.uniform(0, lateness))
            yield event


@asynccontextmanager
async def badly_connected(directory: Path, seed: int) -> AsyncIterator[Cluster]:
    with running_server(directory, service_accounts=False) as server:
        async with connect(server.kubeconfig) as api:
            kubelets = HollowKubelets(api, [f"n{number}" for number in range(4)])
            await kubelets.register()
            tasks = [
                asyncio.create_task(kubelets.run()),
                asyncio.create_task(control(BadLine(api, random.Random(seed)), "")),
            ]
            try:
                yield Cluster(server, api, kubelets)
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                server.kill()
                assert not [error for error in ended if isinstance(error, Exception)]


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_pod_is_made_once_and_the_rollout_takes_no_detour(tmp_path: Path, seed: int) -> None:
    async with badly_connected(tmp_path, seed) as cluster:
        kubelets = cluster.kubelets
        await cluster.apply(daemonset("agent"))
        for size in (3, 12):
            await cluster.apply(deployment("web", size))
            await kubelets.until(f"{size} run", lambda size=size: len(kubelets.running(app="web")) == size)
        await kubelets.until("a daemon each", lambda: len(kubelets.running(app="agent")) == 4)
        assert len(kubelets.seen) == 16, "each pod was made once"
        assert all(len(nodes) == 1 for nodes in kubelets.bound_to.values())
        await cluster.apply(daemonset("agent", "busybox:2"))
        await cluster.apply(deployment("web", 12, "busybox:2"))

        def renewed() -> bool:
            new = [pod for pod in kubelets.running() if pod["spec"]["containers"][0]["image"] == "busybox:2"]
            return len(new) == 16 == len(kubelets.pods)

        await kubelets.until("all new", renewed, timeout_s=60)
        assert len(kubelets.seen) == 32, "each old pod has one successor"
        await cluster.apply(deployment("web", 5, "busybox:2"))
        await kubelets.until("five run", lambda: len(kubelets.running(app="web")) == 5 == len(kubelets.pods) - 4)
        assert len(kubelets.seen) == 32, "shrinking makes nothing"
        sets, _ = await cluster.api.list(REPLICASETS)
        assert sorted(item["spec"]["replicas"] for item in sets) == [0, 5]
        events, _ = await cluster.api.list(EVENTS)
        created = [event["message"] for event in events if event["reason"] == "SuccessfulCreate"]
        assert len(created) == len(set(created))
