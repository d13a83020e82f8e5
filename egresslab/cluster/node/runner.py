"""One container of a pod through all its runs: start or take over, watch over, restart with back-off.

A runner changes the container's state and says so; what becomes of the pod is decided elsewhere. Cancelling a runner
leaves its container running: that is how a kubelet ends.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path
from time import monotonic

from egresslab.api.connection import ApiError, Unreachable
from egresslab.api.resources import Object
from egresslab.cluster.events import EventType
from egresslab.cluster.node.backoff import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, delay_before_restart, duration
from egresslab.cluster.node.containers import Container, Exit
from egresslab.cluster.node.images import UnknownImage
from egresslab.cluster.node.launch import launch
from egresslab.cluster.node.leftovers import end_unrecorded
from egresslab.cluster.node.plans import plan
from egresslab.cluster.node.podstatus import ContainerState
from egresslab.cluster.node.probes import (
    HOOK_TIMEOUT_S,
    ActionFailed,
    ProbeKind,
    Target,
    Verdict,
    named_ports,
    perform,
    probe,
)
from egresslab.cluster.node.surroundings import PodView, Role, Services
from egresslab.cluster.node.variables import ConfigError
from egresslab.errors import ClusterError

STEADY_S = 600.0
"""A run of this length ends a series of crashes."""

CONFIG_RETRY_S = 5.0
LEAST_GRACE_S = 2.0
"""What a program has left to end after a preStop hook that took the whole grace period."""

KEPT_RUNS = 2


class ContainerRunner:
    """The runs of one container; `run` is its task, `state` what others read."""

    def __init__(self, services: Services, view: PodView, spec: Object, role: Role) -> None:
        self.name: str = spec["name"]
        self.role = role
        self.container: Container | None = None
        self.state = ContainerState(self.name, spec["image"])
        self.spec_changed = asyncio.Event()
        self.is_started = asyncio.Event()
        self._services = services
        self._view = view
        self._exits = 0
        self._taken_over: Container | None = None

    @property
    def spec(self) -> Object:
        """The container's part of the pod as it is now."""
        spec = self._view.pod["spec"]
        return next(
            item for item in [*(spec.get("initContainers") or []), *spec["containers"]] if item["name"] == self.name
        )

    @property
    def _runs(self) -> Path:
        return self._view.directory / "containers" / self.name

    async def run(self) -> Exit:
        """Until the container has ended for good."""
        fresh = False
        container = self._taken_over
        while True:
            if container is None:
                container, fresh = await self._start(), True
            exit = await self._watch_over(container, fresh)
            self._note_end(container, exit)
            if not self._restarts(exit):
                return exit
            await self._back_off(exit)
            container = None

    def previous(self) -> Container | None:
        """The run before the latest one, if its files are still there."""
        if self.container is None:
            return None
        number = self.container.record.number
        if self.state.run is None and self.state.last is not None:
            return self.container
        container = Container.load(self._runs / str(number - 1)) if number else None
        if container is not None:
            container.log.end()
        return container

    def event(self, reason: str, message: str, type: EventType = EventType.NORMAL) -> None:
        """An event about this container."""
        group = "containers" if self.role is Role.MAIN else "initContainers"
        self._services.events.record(self._view.pod, type, reason, message, field_path=f"spec.{group}{{{self.name}}}")

    def _numbers(self) -> list[int]:
        return sorted(int(entry.name) for entry in self._runs.iterdir()) if self._runs.is_dir() else []

    async def take_over(self) -> None:
        """Before `run`: find the latest run of an earlier kubelet; older ones give the state before."""
        numbers = self._numbers()
        for number in numbers:
            container = Container.load(self._runs / str(number))
            if container is None:
                await end_unrecorded(self._runs / str(number))
                continue
            if self.state.run is not None and self.state.exit is not None:
                self.state.last = (self.state.run, self.state.exit)
            self.container = container
            self.state.run, self.state.restarts = container.record, number
            self.state.exit = None if container.is_running() else await container.exit()
            if self.state.exit is not None:
                container.log.end()
        # A series of back-offs is kept in memory, as by Kubernetes' kubelet: after its own start nothing has to wait.
        if self.container is None:
            return
        if self.role is Role.INIT and self.container.record.started_ns < self._view.sandbox.created_ns:
            # What it prepared was lost with the sandbox it ran in.
            self._forget_end()
            return
        self._taken_over = self.container
        if self.state.running:
            self.state.started, self.state.ready = self._was("started"), self._was("ready")

    def _forget_end(self) -> None:
        """Go from "ended" to "about to start"."""
        if self.state.run is not None and self.state.exit is not None:
            self.state.last = (self.state.run, self.state.exit)
        self.state.run = self.state.exit = None

    async def _start(self) -> Container:
        """Try until a run has been started, and tell why not as long as it has not."""
        attempts = 0
        while True:
            spec = self.spec
            self.state.image = spec["image"]
            self.spec_changed.clear()
            try:
                return await self._start_once(spec)
            except UnknownImage as error:
                await self._complain_of_image(error, attempts)
                pause = min(FIRST_BACKOFF_S * 2**attempts, LONGEST_BACKOFF_S)
            except (ConfigError, ApiError, Unreachable) as error:
                self._wait("CreateContainerConfigError", error.message)
                self.event("Failed", f"Error: {error.message}", EventType.WARNING)
                pause = CONFIG_RETRY_S
            except ClusterError as error:
                self._wait("RunContainerError", str(error))
                self.event("Failed", f"Error: {error}", EventType.WARNING)
                pause = min(FIRST_BACKOFF_S * 2**attempts, LONGEST_BACKOFF_S)
            attempts += 1
            with suppress(TimeoutError):
                # Not wait_for: in Python 3.11 that can lose a cancellation.
                async with asyncio.timeout(pause):
                    await self.spec_changed.wait()

    async def _start_once(self, spec: Object) -> Container:
        image = self._services.images.resolve(spec["image"])
        numbers = self._numbers()
        number = numbers[-1] + 1 if numbers else 0
        directory = self._runs / str(number)
        services, view = self._services, self._view
        prepared = await plan(
            services.config, services.rootfs, view.volumes, view.pod, view.sandbox, spec, image, number, directory
        )
        self.event("Pulled", f'Container image "{spec["image"]}" already present on machine')
        container = await launch(directory, prepared)
        self.event("Created", f"Container created: {self.name}")
        for old in numbers[: 1 - KEPT_RUNS]:
            shutil.rmtree(self._runs / str(old), ignore_errors=True)
        self.state.restarts = number
        self.event("Started", f"Container started: {self.name}")
        return container

    async def _complain_of_image(self, error: UnknownImage, attempts: int) -> None:
        image = self.state.image
        text = f'Failed to pull image "{image}": {error}'
        if attempts == 0:
            self.event("Failed", text, EventType.WARNING)
            self.event("Failed", "Error: ErrImagePull", EventType.WARNING)
            self._wait("ErrImagePull", text)
            # One state must be seen before the next replaces it.
            await asyncio.sleep(0.5)
        self.event("BackOff", f'Back-off pulling image "{image}"')
        self.event("Failed", "Error: ImagePullBackOff", EventType.WARNING)
        self._wait("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {error}')

    def _wait(self, reason: str, message: str) -> None:
        self.state.waiting = (reason, message)
        self._view.changed()

    async def _watch_over(self, container: Container, fresh: bool) -> Exit:
        """Until the run ends, by itself or because it is not well."""
        self.container = container
        alive = fresh or container.is_running()
        if fresh:
            self._forget_end()
        self.state.run = container.record
        ended = asyncio.create_task(container.wait(), name=f"end of {self.name}")
        tasks: list[asyncio.Task[Exit] | asyncio.Task[None]] = [ended]
        if alive:
            self.state.exit = None
            self._services.logs.add(container.log)
            tasks.append(asyncio.create_task(self._health(container, fresh), name=f"health of {self.name}"))
        self._view.changed()
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                tasks[1].result()
                grace_s = float(self._view.pod["spec"].get("terminationGracePeriodSeconds") or 30)
                await self._stop(container, grace_s)
            return await ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _health(self, container: Container, fresh: bool) -> None:
        """Hooks and probes of one run; returns when the run is to be killed."""
        spec = self.spec
        target = Target(container, self._view.address, named_ports(spec))
        hook = (spec.get("lifecycle") or {}).get("postStart") if fresh else None
        if hook:
            try:
                await perform(hook, target, HOOK_TIMEOUT_S)
            except ActionFailed as error:
                self.event("FailedPostStartHook", f"PostStartHook failed: {error}", EventType.WARNING)
                return
        startup = spec.get(ProbeKind.STARTUP.field)
        if startup and not self.state.started and not await self._settle(ProbeKind.STARTUP, startup, target):
            return
        self._set(started=True, ready=self.state.ready or ProbeKind.READINESS.field not in spec)
        probes = [
            asyncio.create_task(self._settle(kind, spec[kind.field], target), name=f"{kind.field} of {self.name}")
            for kind in (ProbeKind.LIVENESS, ProbeKind.READINESS)
            if spec.get(kind.field)
        ]
        if not probes:
            await asyncio.Event().wait()
        try:
            # Only a liveness probe comes to an end, and that is a failure.
            await asyncio.wait(probes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in probes:
                task.cancel()
            await asyncio.gather(*probes, return_exceptions=True)

    def _was(self, field: str) -> bool:
        """`started` or `ready` as the API server knows it from an earlier kubelet."""
        status = self._view.pod.get("status") or {}
        known = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
        return any(item["name"] == self.name and item.get(field) for item in known)

    def _set(self, *, started: bool | None = None, ready: bool | None = None) -> None:
        before = (self.state.started, self.state.ready)
        if started is not None:
            self.state.started = started
        if ready is not None:
            self.state.ready = ready
        if self.state.started:
            self.is_started.set()
        if before != (self.state.started, self.state.ready):
            self._view.changed()

    async def _settle(self, kind: ProbeKind, spec: Object, target: Target) -> bool:
        """Probe until it is decided: a startup probe's success (True), or failure of startup or liveness (False)."""
        decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def hear(verdict: Verdict) -> None:
            if not verdict.success:
                self.event("Unhealthy", f"{kind.value} probe failed: {verdict.message}", EventType.WARNING)
            if kind is ProbeKind.READINESS:
                if verdict.settled:
                    self._set(ready=verdict.success)
            elif verdict.settled and not decided.done() and (kind is ProbeKind.STARTUP or not verdict.success):
                decided.set_result(verdict.success)

        probing = asyncio.create_task(probe(spec, target, hear), name=f"{kind.value} probe of {self.name}")
        probing.add_done_callback(lambda done: _pass_on(done, decided))
        try:
            success = await decided
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
        if not success:
            text = f"Container {self.name} failed {kind.value.lower()} probe, will be restarted"
            self.event("Killing", text)
        return success

    def _note_end(self, container: Container, exit: Exit) -> None:
        self._services.logs.remove(container.log)
        self.state.run, self.state.exit = container.record, exit
        self.is_started.clear()
        self._set(started=False, ready=False)
        self._view.changed()

    def _restarts(self, exit: Exit) -> bool:
        policy = self._view.pod["spec"].get("restartPolicy") or "Always"
        if self.role is Role.INIT:
            return exit.code != 0 and policy != "Never"
        if self.role is Role.SIDECAR:
            return True
        return policy == "Always" or (policy == "OnFailure" and exit.code != 0)

    async def _back_off(self, exit: Exit) -> None:
        run = self.state.run
        assert run is not None
        self._exits = 1 if exit.finished_ns - run.started_ns > STEADY_S * 1e9 else self._exits + 1
        delay_s = delay_before_restart(self._exits)
        if delay_s:
            self._forget_end()
            metadata = self._view.pod["metadata"]
            pod = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
            text = f"Back-off restarting failed container {self.name} in pod {pod}"
            self.event("BackOff", text, EventType.WARNING)
            text = f"back-off {duration(delay_s)} restarting failed container={self.name} pod={pod}"
            self._wait("CrashLoopBackOff", text)
            await asyncio.sleep(delay_s)
        self.state.waiting = ("ContainerCreating", "")

    def kill(self) -> None:
        """End the present run at once."""
        if self.container is not None and self.state.exit is None:
            self.container.kill()

    async def halt(self, grace_s: float) -> None:
        """Stop the present run for good, after `run` was cancelled: hook, TERM, KILL."""
        container = self.container
        if container is None or self.state.exit is not None:
            return
        if container.is_running():
            self.event("Killing", f"Stopping container {self.name}")
            await self._stop(container, grace_s)
        self._note_end(container, await container.wait())

    async def _stop(self, container: Container, grace_s: float) -> None:
        begin = monotonic()
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook and grace_s > 0:
            try:
                target = Target(container, self._view.address, named_ports(self.spec))
                await perform(hook, target, grace_s)
            except ActionFailed as error:
                self.event("FailedPreStopHook", f"PreStopHook failed: {error}", EventType.WARNING)
            grace_s = max(LEAST_GRACE_S, grace_s - (monotonic() - begin))
        await container.stop(grace_s)


def _pass_on(failed: asyncio.Task[None], to: asyncio.Future[bool]) -> None:
    """A probe has no end: when it has one, that is a defect, which whoever waits for the verdict has to see."""
    if not failed.cancelled() and not to.done():
        to.set_exception(failed.exception() or RuntimeError("a probe came to an end"))
