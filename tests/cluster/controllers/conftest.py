"""A cluster for tests: a real API server with our controllers, and hollow kubelets for its nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from egresslab.api.connection import Api, connect
from egresslab.api.resources import Object, Resource
from egresslab.cluster.assets import Assets
from egresslab.cluster.controllers import Settings, run_controllers
from egresslab.cluster.testing import RunningServer, running_server
from egresslab.environments.netns.doctor import kubectl_path
from tests.cluster.controllers.hollow import HollowKubelets

NODES = ["n0", "n1", "n2", "n3"]


@dataclass
class Cluster:
    """What a test holds in hand."""

    server: RunningServer
    api: Api
    kubelets: HollowKubelets

    async def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Output of kubectl; it must succeed."""
        code, output = await self.kubectl_says(*arguments, stdin=stdin)
        assert code == 0, (arguments, output)
        return output

    async def kubectl_says(self, *arguments: str, stdin: str | None = None) -> tuple[int, str]:
        """Exit status and all output of kubectl."""
        process = await asyncio.create_subprocess_exec(
            str(kubectl_path()),
            "--kubeconfig",
            str(self.server.kubeconfig),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode() if stdin else None), 60)
        return process.returncode or 0, out.decode() + err.decode()

    async def apply(self, *objects: Object) -> None:
        """kubectl apply."""
        await self.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, objects)))

    async def until(
        self, resource: Resource, holds: Callable[[list[Object]], bool], *, namespace: str | None = None
    ) -> list[Object]:
        """Wait until all objects of a resource fulfil something; every change is looked at."""
        items: dict[str, Object] = {}
        try:
            async with asyncio.timeout(30):
                listed, version = await self.api.list(resource, namespace)
                items = {item["metadata"]["uid"]: item for item in listed}
                while not holds(list(items.values())):
                    async for event in self.api.watch(resource, version, namespace):
                        version = event["object"]["metadata"]["resourceVersion"]
                        if event["type"] == "DELETED":
                            items.pop(event["object"]["metadata"]["uid"], None)
                        elif event["type"] != "BOOKMARK":
                            items[event["object"]["metadata"]["uid"]] = event["object"]
                        if holds(list(items.values())):
                            break
        except TimeoutError:
            raise AssertionError(f"never so: {resource.plural}: {json.dumps(list(items.values()))[:4000]}") from None
        return list(items.values())


@asynccontextmanager
async def hollow_cluster(
    directory: Path, settings: Settings | None = None, *, assets: Assets | None = None, **options: Any
) -> AsyncIterator[Cluster]:
    """Controllers run in the server's process, or, with `settings`, in the test's own event loop."""
    beside: dict[str, Any] = {"kubeconfig": str(directory / "kubeconfig")} if settings is None else {}
    with running_server(directory, assets=assets, service_accounts=False, **beside) as server:
        async with connect(server.kubeconfig) as api:
            kubelets = HollowKubelets(api, NODES, **options)
            await kubelets.register()
            stop = asyncio.Event()
            tasks = [asyncio.create_task(kubelets.run())]
            if settings is not None:
                tasks.append(asyncio.create_task(run_controllers(server.kubeconfig, stop, settings)))
            try:
                yield Cluster(server, api, kubelets)
            finally:
                stop.set()
                tasks[0].cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                server.kill()
                assert not [error for error in ended if isinstance(error, Exception)]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Four ready nodes and all controllers."""
    async with hollow_cluster(tmp_path) as found:
        yield found


def deployment(name: str, replicas: int = 3, image: str = "busybox:1", **spec: Any) -> Object:
    """A Deployment whose pods bear the label app=NAME."""
    return {"apiVersion": "apps/v1", "kind": "Deployment", **workload(name, image, replicas=replicas, **spec)}


def daemonset(name: str, image: str = "busybox:1", **spec: Any) -> Object:
    """A DaemonSet whose pods bear the label app=NAME."""
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", **workload(name, image, **spec)}


def workload(name: str, image: str, pod: Object | None = None, **spec: Any) -> Object:
    """Metadata and spec of either; `pod` are further fields of the PodSpec."""
    containers = [{"name": "main", "image": image}]
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers, **(pod or {})}}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **spec},
    }
