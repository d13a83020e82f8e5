"""One pod from its binding to its end: sandbox, containers, status, and its removal from the node and from the API.

A worker is cancelled when the kubelet ends, and then leaves everything as it is; it goes through with a removal only
when the API server wants the pod gone or no longer knows it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address

from egresslab.api.connection import ApiError, Unreachable
from egresslab.api.resources import PODS, Object
from egresslab.cluster.events import EventType
from egresslab.cluster.node import plugins, sandbox
from egresslab.cluster.node.leftovers import end_pod
from egresslab.cluster.node.podstatus import ContainerState, PodFacts, pod_status, timestamp
from egresslab.cluster.node.runner import ContainerRunner
from egresslab.cluster.node.sandbox import Sandbox
from egresslab.cluster.node.surroundings import Role, Services
from egresslab.cluster.node.variables import ConfigError
from egresslab.cluster.node.volumes import REFRESH_S, MountError, Volumes, with_token_volume
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 5.0
DEFAULT_GRACE_S = 30
FINISHED = ("Succeeded", "Failed")
UNSUPPORTED = ("hostPID", "hostIPC", "shareProcessNamespace")
FORCED_GRACE_S = 2.0
"""What is left to the programs of a pod that the API server has forgotten already."""


class PodWorker:
    """Everything this node does for one pod; `run` is its task."""

    def __init__(self, services: Services, pod: Object) -> None:
        config = services.config
        self.uid: str = pod["metadata"]["uid"]
        self.pod = with_token_volume(pod)
        self.directory = config.pods / self.uid
        self.volumes = Volumes(services.api, self.directory / "volumes", config.root, config.api.ca)
        self.runners: dict[str, ContainerRunner] = {}
        self._services = services
        self._sandbox: Sandbox | None = None
        self._gone = False
        self._leaving = asyncio.Event()
        self._dirty = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._published: Object | None = None
        self._overruled = False
        self._start_time = str((pod.get("status") or {}).get("startTime") or timestamp(_now_ns()))
        for item in pod["spec"].get("initContainers") or []:
            role = Role.SIDECAR if item.get("restartPolicy") == "Always" else Role.INIT
            self.runners[item["name"]] = ContainerRunner(services, self, item, role)
        for item in pod["spec"]["containers"]:
            self.runners[item["name"]] = ContainerRunner(services, self, item, Role.MAIN)
        if self._of(Role.INIT):
            for runner in self._of(Role.MAIN):
                runner.state.waiting = ("PodInitializing", "")
        self.update(pod)

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox; containers are only run when there is one."""
        assert self._sandbox is not None
        return self._sandbox

    @property
    def address(self) -> str:
        """Where the pod is reached from the node."""
        addresses = self._addresses()
        return str(addresses[0]) if addresses else "127.0.0.1"

    @property
    def label(self) -> str:
        """Namespace and name, for logs."""
        return f"{self.pod['metadata']['namespace']}/{self.pod['metadata']['name']}"

    def update(self, pod: Object) -> None:
        """The API server has a new version of the pod."""
        before = {item["name"]: item["image"] for item in self.pod["spec"]["containers"]}
        self.pod = with_token_volume(pod)
        for item in self.pod["spec"]["containers"]:
            if before.get(item["name"]) != item["image"]:
                self.runners[item["name"]].spec_changed.set()
        if pod["metadata"].get("deletionTimestamp"):
            self._leaving.set()
        known = self._published
        if (
            known is not None
            and not self._publishing.locked()
            and _ready(known)
            and not _ready(pod.get("status") or {})
        ):
            # The node was taken for dead meanwhile, and the pod with it.
            self._overruled = True
            self.changed()

    def vanish(self) -> None:
        """The API server no longer knows the pod; whoever forced that does not want to wait."""
        self._gone = True
        if self._leaving.is_set():
            for runner in self.runners.values():
                runner.kill()
        self._leaving.set()

    def changed(self) -> None:
        """Note that the status has to be published."""
        self._dirty.set()

    async def run(self) -> None:
        """Until the pod is gone from this node."""
        life = asyncio.create_task(self._live(), name=f"life of {self.label}")
        publisher = asyncio.create_task(self._publish_changes(), name=f"status of {self.label}")
        leaving = asyncio.create_task(self._leaving.wait(), name=f"deletion of {self.label}")
        tasks = (life, publisher, leaving)
        try:
            done, _ = await asyncio.wait({life, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if life in done:
                life.result()
                await leaving
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            await self._leave(publisher)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _of(self, *roles: Role) -> list[ContainerRunner]:
        return [runner for runner in self.runners.values() if runner.role in roles]

    async def _live(self) -> None:
        """Sandbox, init containers, containers."""
        self._complain()
        if (self.pod.get("status") or {}).get("phase") in FINISHED:
            self._sandbox = sandbox.read_record(self.directory)
            if self._sandbox is not None:
                await self._take_over()
            await asyncio.Event().wait()
        await self._ensure_sandbox()
        await self._take_over()
        refreshing = asyncio.create_task(self._refresh(), name=f"volumes of {self.label}")
        running: list[asyncio.Task[object]] = []
        try:
            for runner in self._of(Role.INIT, Role.SIDECAR):
                task = asyncio.create_task(runner.run(), name=f"container {runner.name} of {self.label}")
                running.append(task)
                if runner.role is Role.SIDECAR:
                    await runner.is_started.wait()
                elif (await task).code != 0:
                    await asyncio.Event().wait()
            for runner in self._of(Role.MAIN):
                if runner.state.waiting[0] == "PodInitializing":
                    runner.state.waiting = ("ContainerCreating", "")
                running.append(asyncio.create_task(runner.run(), name=f"container {runner.name} of {self.label}"))
            await asyncio.gather(*running[len(self._of(Role.INIT, Role.SIDECAR)) :])
            for runner in reversed(self._of(Role.SIDECAR)):
                await self._end_sidecar(runner, running)
        finally:
            for each in (refreshing, *running):
                each.cancel()
            await asyncio.gather(refreshing, *running, return_exceptions=True)

    async def _take_over(self) -> None:
        for runner in self.runners.values():
            await runner.take_over()

    def _complain(self) -> None:
        """Say what of the pod this node does not do, rather than leave it to be found out."""
        spec = self.pod["spec"]
        for field in UNSUPPORTED:
            if spec.get(field):
                text = f"spec.{field} has no effect on this node: every container has namespaces of its own"
                self._services.events.record(self.pod, EventType.WARNING, "Unsupported", text)

    async def _end_sidecar(self, runner: ContainerRunner, running: list[asyncio.Task[object]]) -> None:
        task = running[[*self.runners].index(runner.name)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.halt(self._grace_s())

    async def _ensure_sandbox(self) -> None:
        """Take over the sandbox that is there, or make one; retried with back-off until it stands."""
        known = sandbox.read_record(self.directory)
        if known is not None and await sandbox.is_intact(self._services.host, known):
            self._sandbox = known
            await self._retrying("FailedMount", self._prepare_volumes)
            if not self._has_runs():
                # The kubelet died in between: the plug-ins may not have been asked yet.
                await self._retrying("FailedCreatePodSandBox", self._ask_plugins)
            return
        if known is not None:
            text = "Pod sandbox changed, it will be killed and re-created."
            self._services.events.record(self.pod, EventType.NORMAL, "SandboxChanged", text)
            end_pod(self.directory, known.link.namespace if known.link else None)
        await self._retrying("FailedCreatePodSandBox", self._create_sandbox)
        await self.publish()
        await self._retrying("FailedMount", self._prepare_volumes)
        await self._retrying("FailedCreatePodSandBox", self._ask_plugins)

    def _has_runs(self) -> bool:
        return any(self.directory.glob("containers/*/*"))

    async def _create_sandbox(self) -> None:
        services = self._services
        self._sandbox = await sandbox.create(services.config, services.host, services.addresses, self.pod)

    async def _prepare_volumes(self) -> None:
        await self.volumes.prepare(self.pod)

    async def _ask_plugins(self) -> None:
        if self.sandbox.link is None:
            return
        body = self.sandbox.plugin_body(self.pod["metadata"].get("labels") or {})
        for plugin in plugins.plugins(self._services.config.root):
            await plugins.ask(plugin, "add", body)

    async def _retrying(self, reason: str, step: object) -> None:
        """Carry out a step until it succeeds, with an event for each new way in which it fails."""
        assert callable(step)
        pause, told = FIRST_RETRY_S, ""
        while True:
            try:
                await step()
                return
            except (ClusterError, ConfigError, MountError, ApiError, Unreachable) as error:
                logger.warning("pod %s: %s: %s", self.label, reason, error)
                if str(error) != told:
                    told = str(error)
                    self._services.events.record(self.pod, EventType.WARNING, reason, told)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_RETRY_S)

    async def _refresh(self) -> None:
        """Follow ConfigMaps and Secrets, and renew tokens."""
        while self.volumes.changing(self.pod):
            await asyncio.sleep(REFRESH_S)
            try:
                await self.volumes.refresh(self.pod)
            except (ClusterError, ApiError, Unreachable) as error:
                logger.warning("pod %s: volumes stay as they are: %s", self.label, error)

    def _addresses(self) -> tuple[object, ...]:
        if self._sandbox is None:
            return tuple(
                ip_address(item["ip"]) for item in (self.pod.get("status") or {}).get("podIPs") or [] if item.get("ip")
            )
        link = self._sandbox.link
        return link.addresses if link is not None else self._services.config.internal_addresses

    def _status(self) -> Object:
        def states(*roles: Role) -> list[ContainerState]:
            return [runner.state for runner in self._of(*roles)]

        facts = PodFacts(
            pod=self.pod,
            states=states(Role.MAIN),
            init_states=states(Role.INIT, Role.SIDECAR),
            host_addresses=self._services.config.internal_addresses,
            addresses=self._addresses(),  # type: ignore[arg-type]
            sandbox_ready=self._sandbox is not None,
            start_time=self._start_time,
            now=datetime.now(UTC),
            sidecars=frozenset(runner.name for runner in self._of(Role.SIDECAR)),
        )
        return pod_status(facts, self._published or self.pod.get("status") or {})

    async def publish(self) -> None:
        """Bring the status at the API server up to date; waits for a server that does not answer."""
        async with self._publishing:
            pause = FIRST_RETRY_S
            while not self._gone:
                self._dirty.clear()
                status = self._status()
                if status == self._published and not self._overruled:
                    return
                self._overruled = False
                body = {"metadata": {"uid": self.uid}, "status": status}
                metadata = self.pod["metadata"]
                try:
                    await self._services.api.patch(
                        PODS, metadata["name"], body, metadata["namespace"], subresource="status"
                    )
                    self._published = status
                    return
                except ApiError as error:
                    if error.status in (404, 409) or 400 <= error.status < 429:
                        logger.info("status of %s not taken: %s", self.label, error)
                        return
                    logger.warning("status of %s: %s", self.label, error)
                except Unreachable as error:
                    logger.info("status of %s waits: %s", self.label, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_RETRY_S)

    async def _publish_changes(self) -> None:
        # Of a pod that is gone nothing is published any more, so nothing would take the mark away either.
        while not self._gone:
            await self._dirty.wait()
            await self.publish()

    def _grace_s(self) -> float:
        metadata, spec = self.pod["metadata"], self.pod["spec"]
        given = metadata.get("deletionGracePeriodSeconds")
        if given is None:
            given = spec.get("terminationGracePeriodSeconds")
        grace_s = float(DEFAULT_GRACE_S if given is None else given)
        return min(grace_s, FORCED_GRACE_S) if self._gone else grace_s

    async def _leave(self, publisher: asyncio.Task[None]) -> None:
        """Stop everything, remove it, and let the API server forget the pod."""
        grace_s = self._grace_s()
        halts = [runner.halt(grace_s) for runner in self._of(Role.MAIN, Role.INIT)]
        await asyncio.gather(*halts)
        await asyncio.gather(*(runner.halt(grace_s) for runner in self._of(Role.SIDECAR)))
        known = self._sandbox or sandbox.read_record(self.directory)
        end_pod(self.directory, known.link.namespace if known is not None and known.link is not None else None)
        publisher.cancel()
        await asyncio.gather(publisher, return_exceptions=True)
        if not self._gone:
            self._sandbox = known
            with suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_RETRY_S):
                    await self.publish()
        if known is not None and known.link is not None:
            body = known.plugin_body(self.pod["metadata"].get("labels") or {})
            await plugins.farewell(self._services.config.root, body)
        await sandbox.destroy(self._services.config, self._services.host, self.uid, known)
        await self._delete()

    async def _delete(self) -> None:
        pause = FIRST_RETRY_S
        metadata = self.pod["metadata"]
        while not self._gone:
            try:
                await self._services.api.delete(
                    PODS, metadata["name"], metadata["namespace"], grace_period_s=0, uid=self.uid
                )
                return
            except ApiError as error:
                if error.status in (404, 409):
                    return
                logger.warning("pod %s cannot be deleted: %s", self.label, error)
            except Unreachable as error:
                logger.info("pod %s waits to be deleted: %s", self.label, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_RETRY_S)


def _ready(status: Object) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions") or [])


def _now_ns() -> int:
    return int(datetime.now(UTC).timestamp() * 1e9)
