"""A lab of network namespaces on this machine, as an `Environment`."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from egresslab.environments.base import Fault, Outcome, Progress, Status
from egresslab.environments.definitions import definitions, manifests
from egresslab.environments.netns import construction, faults, host
from egresslab.environments.netns.configs import CONTROL_PLANE, node_process
from egresslab.environments.netns.demolition import demolish
from egresslab.environments.netns.labrecord import LabRecord, Stage, read_lab, write_lab
from egresslab.environments.netns.locks import locked
from egresslab.environments.netns.paths import NAMESPACES, LabPaths
from egresslab.environments.netns.records import is_alive, read_records
from egresslab.environments.netns.topology import Topology, load_topology
from egresslab.errors import EnvironmentFailure

LOCK_PATIENCE_S = 5.0
DOWN_PATIENCE_S = 30.0
API_DEADLINE_S = 30.0


class NetnsEnvironment:
    """One lab. `topology` is a file (absent: the one that comes with the package).

    An environment whose nodes are made of something else says so in `_machines`, `_check_machine`, `_objects` and the
    deadlines; everything but `create` goes by the lab's record.
    """

    kind = "netns"
    nodes_deadline_s = 45.0
    rollout_deadline_s = 60.0

    def __init__(self, lab: str = "default", topology: Path | None = None, *, bare: bool = False) -> None:
        self._paths = LabPaths(lab)
        self._topology_file = topology
        self._bare = bare
        self._begun: subprocess.Popen[bytes] | None = None

    @property
    def lab(self) -> str:
        """Name of the lab."""
        return self._paths.lab

    @property
    def patience(self) -> float:
        """That of the lab's nodes, by its record."""
        record = read_lab(self._paths)
        return record.patience if record is not None else 1.0

    def kubeconfig(self) -> Path:
        """Path of the kubeconfig; raises `EnvironmentFailure` when there is no lab."""
        if not self._paths.kubeconfig.exists():
            raise no_lab(self.lab)
        return self._paths.kubeconfig

    def create(self, progress: Progress) -> Outcome:
        """Bring the lab up; a lab that is up already is left alone, one that was half made is finished or redone."""
        clock = _Clock(progress)
        # Whatever may be wrong with files is found out before anything is made.
        topology = self._wanted_topology()
        self._check_machine(topology)
        objects = self._objects(bare=self._bare)
        with locked(self._paths.root, LOCK_PATIENCE_S, f"another command at work on lab {self.lab}") as lock:
            assert lock is not None
            record = read_lab(self._paths)
            if record is not None and self._is_whole(record):
                self._check_same(record, topology)
                self._check_kind(record)
                if record.bare and not self._bare:
                    progress.note("adding agent and operator")
                    record = replace(record, bare=False)
                elif asyncio.run(self._runs(record)):
                    return clock.outcome(changed=False)
                else:
                    progress.note("finishing what an earlier run began")
                    objects = self._objects(bare=record.bare)
                return self._start(record, objects, clock)
            with self._undone_on_interrupt():
                if any(self._paths.root.iterdir()):
                    clock.step("clearing away what an earlier run left")
                    demolish(self._paths, record)
                # It takes about as long to warm up as the rest takes to be made.
                self._begun = construction.begin_supervisor(self._paths)
                topology = topology or self._default_topology()
                try:
                    machines = self._machines(topology, clock)
                    record = construction.construct(
                        self._paths, topology, bare=self._bare, lock=lock, progress=clock, machines=machines
                    )
                except EnvironmentFailure:
                    self._remove()
                    raise
                return self._start(record, objects, clock)

    def delete(self, progress: Progress) -> bool:
        """Take the lab down."""
        waiting_for = f"another command at work on lab {self.lab}"
        with locked(self._paths.root, DOWN_PATIENCE_S, waiting_for, make=False) as lock:
            if lock is None:
                return False
            progress.step("ending processes, removing namespaces, mounts and files")
            self._remove()
        return True

    def status(self) -> Status:
        """How the lab is doing."""
        from egresslab.environments.netns.observation import observe

        return observe(self._paths)

    def break_(self, fault: Fault) -> None:
        """Break something on purpose."""
        faults.break_(self._paths, self._record(), fault)

    def heal(self, target: str) -> None:
        """Mend every fault of a node or a process."""
        faults.heal(self._paths, self._record(), target)

    def faults(self) -> tuple[Fault, ...]:
        """What is broken on purpose right now."""
        return faults.in_force(self._paths)

    def _record(self) -> LabRecord:
        record = read_lab(self._paths)
        if record is None or record.stage is Stage.BUILDING or not record.survived:
            raise no_lab(self.lab)
        return record

    def _wanted_topology(self) -> Topology | None:
        return load_topology(self._topology_file) if self._topology_file else None

    def _objects(self, *, bare: bool) -> list[dict[str, Any]]:
        """What a new cluster is given."""
        return manifests("netns", bare=bare)

    def _default_topology(self) -> Topology:
        return load_topology(definitions("netns") / "topology.yaml")

    def _check_machine(self, topology: Topology | None) -> None:
        """Raise `EnvironmentFailure` for what this kind of lab needs and the machine lacks, before anything is made."""

    def _machines(self, topology: Topology, progress: Progress) -> construction.Machines | None:
        """The nodes that are virtual machines; None where there are none."""
        return None

    def _check_kind(self, record: LabRecord) -> None:
        if record.environment != self.kind:
            raise EnvironmentFailure(
                "runs in another environment",
                object=f"lab {self.lab}",
                field="environment",
                value=record.environment,
                fix=f"say --environment {record.environment}, or `egresslab down --lab {self.lab}` first",
            )

    def _check_same(self, record: LabRecord, topology: Topology | None) -> None:
        if topology is not None and topology != record.parsed_topology():
            raise EnvironmentFailure(
                "runs with another topology",
                object=f"lab {self.lab}",
                field="topology",
                value=str(self._topology_file),
                fix=f"`egresslab down --lab {self.lab}` first, or give the new lab another name with --lab",
            )

    def _is_whole(self, record: LabRecord) -> bool:
        """Whether what was made is still there, so that starting processes is all that may be missing."""
        if not record.survived or record.stage is Stage.BUILDING or self._paths.stopping.exists():
            return False
        crashed = {self._paths.namespace(fault.target) for fault in faults.in_force(self._paths)}
        return all((NAMESPACES / name).exists() for name in record.namespaces() if name not in crashed)

    async def _runs(self, record: LabRecord) -> bool:
        """Whether the lab is up in every respect."""
        from egresslab.api.connection import connect
        from egresslab.api.resources import NODES
        from egresslab.environments.netns.readiness import is_ready
        from egresslab.errors import ClusterError

        alive = [is_alive(process) for process in read_records(self._paths.processes)]
        if record.stage is not Stage.RUNNING or not alive or not construction.supervised(self._paths):
            return False
        try:
            async with connect(self._paths.kubeconfig) as api:
                nodes, _ = await api.list(NODES)
        except ClusterError:
            return False
        ready = {node["metadata"]["name"] for node in nodes if is_ready(node)}
        return ready >= self._expected(record)

    def _expected(self, record: LabRecord) -> set[str]:
        """Nodes that should be Ready: all but those that are broken on purpose."""
        broken = {fault.target for fault in faults.in_force(self._paths)}
        return {node.name for node in record.parsed_topology().nodes} - broken

    def _start(self, record: LabRecord, objects: list[dict[str, Any]], clock: _Clock) -> Outcome:
        clock.step("processes")
        if self._begun is not None or not construction.supervised(self._paths):
            construction.start_supervisor(self._paths, self._begun)
            self._begun = None
        asyncio.run(self._make_ready(record, objects, clock))
        write_lab(record.at(Stage.RUNNING))
        return clock.outcome(changed=True)

    async def _make_ready(self, record: LabRecord, objects: list[dict[str, Any]], clock: Progress) -> None:
        from egresslab.api.connection import connect
        from egresslab.cluster.assets import Assets, node_rights
        from egresslab.environments.netns import readiness
        from egresslab.environments.netns.manifests import Applier

        async with connect(self._paths.kubeconfig) as api:
            clock.step("API server")
            answering = readiness.wait_for_api(api, self._paths, API_DEADLINE_S)
            await readiness.unless_ending(self._paths, [CONTROL_PLANE], answering)
            if Assets.find() is not None:
                objects = [*node_rights(), *objects]
            clock.step("manifests")
            await Applier(api).apply_all(objects)
            clock.step("nodes Ready")
            expected = self._expected(record)
            joining = readiness.wait_for_nodes(api, self._paths, expected, self.nodes_deadline_s)
            await readiness.unless_ending(self._paths, map(node_process, expected), joining)
            if len(expected) == len(record.topology["nodes"]):
                clock.step("agent and operator rolled out")
                await readiness.wait_for_rollouts(api, self._paths, objects, len(expected), self.rollout_deadline_s)

    @contextmanager
    def _undone_on_interrupt(self) -> Iterator[None]:
        """Remove what was made when the user interrupts; a second Ctrl-C does not interrupt the removal."""
        try:
            yield
        except KeyboardInterrupt:
            with _uninterrupted():
                self._remove()
            raise

    def _remove(self) -> None:
        if self._begun is not None:
            self._begun.kill()
            self._begun.wait()
            self._begun = None
        demolish(self._paths, read_lab(self._paths))
        self._paths.root.rmdir()
        with host.host_locked():
            host.sweep()


def no_lab(lab: str) -> EnvironmentFailure:
    """The error for a lab that is not there."""
    return EnvironmentFailure("is not up", object=f"lab {lab}", fix=f"egresslab up --lab {lab}")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C does nothing meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Clock:
    """Progress that remembers how long each step took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._begun = self._last = time.monotonic()
        self._current: str | None = None
        self._steps: dict[str, float] = {}

    def step(self, text: str) -> None:
        """A new step begins."""
        self._close()
        self._current = text
        self._progress.step(text)

    def note(self, text: str) -> None:
        """Pass on."""
        self._progress.note(text)

    def outcome(self, *, changed: bool) -> Outcome:
        """All in all."""
        self._close()
        return Outcome(changed, time.monotonic() - self._begun, self._steps)

    def _close(self) -> None:
        now = time.monotonic()
        if self._current is not None:
            self._steps[self._current] = now - self._last
        self._last = now
