"""An API server with our kinds, four nodes that exist as objects, and agents that answer what a test says."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from egresslab.api.connection import Api, ApiError, connect
from egresslab.api.crds import definitions
from egresslab.api.resources import (
    CILIUM_POLICIES,
    CONFIGMAPS,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    EVENTS,
    NODES,
    PODS,
    Object,
    Resource,
)
from egresslab.api.voters import NAME, NAMESPACE, parse_voters
from egresslab.cluster.testing import RunningServer, running_server
from egresslab.environments.definitions import definitions as environment_files
from egresslab.operator.operator import Operator
from egresslab.voter.files import LeaseReport, NodeReport, Report, dump

OPERATOR = "system:serviceaccount:kube-system:egresslab-operator"
VERIFIER = "system:serviceaccount:ci:verifier"
NAMES = ("lab-control-plane", "lab-worker", "lab-worker2", "lab-worker3")
PATIENCE_S = 10.0


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The server, with the operator's rights from the manifest that clusters get."""
    with running_server(
        tmp_path_factory.mktemp("operator"), dict.fromkeys((OPERATOR, VERIFIER), "system:authenticated")
    ) as running:
        files = environment_files("netns")
        manifests = (files / "manifests" / "operator.yaml", files / "cilium-backend.yaml")
        objects: list[Object] = [
            *definitions(),
            *(o for file in manifests for o in yaml.safe_load_all(file.read_text())),
        ]
        wanted = [obj for obj in objects if obj["kind"] not in ("Deployment", "DaemonSet")]
        done = kubectl(running, "apply", "--server-side", "-f", "-", stdin=json.dumps(_list(wanted)))
        assert done.returncode == 0, done.stderr
        yield running


def _list(items: list[Object]) -> Object:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def kubectl(server: RunningServer, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The real kubectl, as administrator."""
    program = Path(sys.executable).with_name("kubectl")
    options = ["--kubeconfig", str(server.kubeconfig), "--cache-dir", str(server.directory / "cache")]
    return subprocess.run(
        [str(program), *options, *arguments], input=stdin, capture_output=True, text=True, timeout=30, check=False
    )


@dataclass
class Agents:
    """What each node's agent answers; None: it does not."""

    port: int
    reports: dict[str, Report | None] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        """`GET /gateways` on the address of a node."""
        assert request.transport is not None
        node = NAMES[int(request.transport.get_extra_info("sockname")[0].rpartition(".")[2]) - 11]
        report = self.reports.get(node)
        if report is None:
            return web.Response(status=503)
        return web.Response(text=dump(replace(report, time=time.time())), content_type="application/json")

    def count_by(self, generation: int) -> None:
        """All nodes know the voters of that version."""
        for node, report in self.reports.items():
            if report is not None:
                self.reports[node] = replace(report, generation=generation)

    def hold(self, key: str, holder: str | None, *, epoch: int = 1, dead: tuple[str, ...] = (), **more: Any) -> None:
        """Every agent says that `holder` holds the lease, the holder's own from its kernel; the dead are silent."""
        for node in NAMES:
            lease = LeaseReport(7, key, holder, epoch, node == holder, **more)
            seen = tuple(NodeReport(name, name not in dead) for name in NAMES)
            known = self.reports.get(node)
            generation = known.generation if known else 1
            report = Report(node, 0.0, generation, True, leases=(lease,), nodes=seen)
            self.reports[node] = None if node in dead else report


@dataclass
class Cluster:
    """A test's hold on the cluster."""

    server: RunningServer
    api: Api
    agents: Agents

    async def node(self, name: str, *, ready: bool = True, **labels: str) -> None:
        """Make or change a node."""
        number = NAMES.index(name)
        interfaces = {
            "eth0": {"addresses": [f"192.168.60.{number + 10}/24"], "default_route": ["ipv4"]},
            "eth1": {"addresses": [f"172.18.18.{number + 10}/24"]},
        }
        body: Object = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/hostname": name, **labels},
                "annotations": {"egresslab.dev/interfaces": json.dumps(interfaces)},
            },
        }
        await self.api.apply(NODES, body, field_manager="test")
        status = {
            "addresses": [{"type": "InternalIP", "address": f"127.0.0.{number + 11}"}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        }
        await self.api.patch(NODES, name, {"status": status}, subresource="status")

    async def agent(self, name: str, *, ready: bool = True, daemon: str = "egresslab-agent") -> None:
        """An agent's pod on a node, or an announcer's."""
        pod = f"{daemon.removeprefix('egresslab-')}-{name}"
        body: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod,
                "namespace": "kube-system",
                "labels": {"app.kubernetes.io/name": daemon},
            },
            "spec": {"nodeName": name, "hostNetwork": True, "containers": [{"name": "agent", "image": "x"}]},
        }
        await self.api.apply(PODS, body, field_manager="test")
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
        await self.api.patch(PODS, pod, {"status": status}, "kube-system", subresource="status")

    async def apply(self, obj: Object, resource: Resource) -> Object:
        """Make or change an object."""
        return await self.api.apply(resource, obj, field_manager="test")

    async def status(self, resource: Resource, name: str) -> Any:
        """An object's status."""
        return (await self.api.get(resource, name)).get("status") or {}

    async def events(self, reason: str) -> list[str]:
        """Messages of the Events with that reason, each as often as it was counted."""
        found, _ = await self.api.list(EVENTS)
        return [event["message"] for event in found if event["reason"] == reason for _ in range(event["count"])]

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[None]:
        """An operator at work with the rights it has on a cluster; it must not have failed by the end."""
        async with connect(self.server.kubeconfig_for(OPERATOR)) as api:
            running = asyncio.create_task(Operator(api, self.agents.port, announcer_port=self.agents.port).run())
            try:
                yield
            finally:
                if not running.done():
                    running.cancel()
                with suppress(asyncio.CancelledError):
                    await running


@pytest.fixture
async def agents() -> AsyncIterator[Agents]:
    """Agents of four nodes, at addresses of the loopback."""
    application = web.Application()
    found = Agents(0)
    application.router.add_get("/gateways", found.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    first = web.TCPSite(runner, "127.0.0.11", 0)
    await first.start()
    found.port = runner.addresses[0][1]
    for number in (12, 13, 14):
        await web.TCPSite(runner, f"127.0.0.{number}", found.port).start()
    try:
        yield found
    finally:
        await runner.cleanup()


@pytest.fixture
async def cluster(server: RunningServer, agents: Agents) -> AsyncIterator[Cluster]:
    """Four nodes with ready agents, nothing else."""
    async with connect(server.kubeconfig) as api:
        found = Cluster(server, api, agents)
        for name in NAMES:
            await found.node(name)
            await found.agent(name)
        agents.reports = {name: Report(name, 0.0, 1, True) for name in NAMES}
        try:
            yield found
        finally:
            await _clear(api)


async def _clear(api: Api) -> None:
    kinds = (EGRESSLAB_POLICIES, DECKHOUSE_POLICIES, CILIUM_POLICIES, EGRESSLAB_GATEWAYS, DECKHOUSE_GATEWAYS, NODES)
    for resource in (*kinds, EVENTS, PODS, CONFIGMAPS):
        items, _ = await api.list(resource)
        for item in items:
            await api.delete(resource, item["metadata"]["name"], item["metadata"].get("namespace"), grace_period_s=0)


async def until(what: str, ask: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer that is true; fails, saying what was waited for and what came last, after a while."""
    last: Any = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not (last := await ask()):  # noqa: ASYNC110 - what is awaited is on the server
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"waited {PATIENCE_S:g} s for {what}; last: {last!r}")
    return last


async def voters_of(cluster: Cluster) -> tuple[str, ...]:
    """Who votes; empty while nobody says."""
    try:
        return parse_voters(await cluster.api.get(CONFIGMAPS, NAME, NAMESPACE)).nodes
    except ApiError:
        return ()


def gateway(name: str = "out", **spec: Any) -> Object:
    """One of ours, over the nodes labelled egress=true."""
    return {
        "apiVersion": "egresslab.dev/v1alpha1",
        "kind": "EgressGateway",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {"matchLabels": {"egress": "true"}}, **spec},
    }


def condition(status: Any, kind: str) -> Any:
    """A condition of a status; empty where there is none."""
    return next((item for item in status.get("conditions", ()) if item["type"] == kind), {})
