"""Waits until a lab is usable: the API server answers, every node is Ready, the workloads are rolled out.

Each wait follows a watch, not a clock, has a deadline, and says at its end what was missing and what the log of the
process concerned said last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.reflector import ObjectChange, Reflector
from egresslab.api.resources import DAEMONSETS, DEPLOYMENTS, NODES, Object, Resource
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.records import read_record
from egresslab.errors import EnvironmentFailure

API_PAUSE_S = 0.03
LOOK_S = 0.25
PATIENCE_STARTS = 4
LOG_LINES = 12


def tail(path: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log, indented, for an error message."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (the log is empty)"


def is_ready(node: Object) -> bool:
    """Whether a Node has condition Ready=True."""
    conditions = node.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def is_rolled_out(workload: Object, nodes: int) -> bool:
    """Whether a DaemonSet or Deployment runs its newest template everywhere it should.

    `nodes` is how many nodes there are: a DaemonSet without a node selector is to be on each of them.
    """
    spec, status = workload.get("spec", {}), workload.get("status", {})
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 1):
        return False
    if workload["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        pod = spec.get("template", {}).get("spec", {})
        everywhere = not pod.get("nodeSelector") and any("key" not in t for t in pod.get("tolerations") or ())
        if wanted < (nodes if everywhere else 1):
            return False
        return bool(status.get("updatedNumberScheduled", 0) == status.get("numberReady", 0) == wanted)
    wanted = spec.get("replicas", 1)
    return bool(status.get("updatedReplicas", 0) == status.get("readyReplicas", 0) == wanted)


async def unless_ending(paths: LabPaths, processes: Iterable[str], wait: Coroutine[Any, Any, None]) -> None:
    """Wait, but not for processes that start and end again and again; raises `EnvironmentFailure` with their log."""

    def restarts() -> dict[str, int]:
        records = ((name, read_record(paths.processes / f"{name}.json")) for name in names)
        return {name: record.restarts if record else 0 for name, record in records}

    names = tuple(processes)
    begun = restarts()
    task = asyncio.create_task(wait, name="wait for a process")
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
            for name, count in restarts().items():
                if count - begun[name] >= PATIENCE_STARTS:
                    raise EnvironmentFailure(
                        f"ends as soon as it is started; last lines of its log:\n{tail(paths.log(name))}",
                        object=f"process {name}",
                        fix=f"`egresslab doctor`; then `egresslab down --lab {paths.lab}` and up again",
                    )
        task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wait_for_api(api: Api, paths: LabPaths, deadline_s: float) -> None:
    """Until the API server answers a list of nodes."""
    last: Exception | None = None
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    await api.list(NODES)
                    return
                except (Unreachable, ApiError) as error:
                    last = error
                await asyncio.sleep(API_PAUSE_S)
    except TimeoutError as error:
        raise EnvironmentFailure(
            f"no answer from the API server within {deadline_s:g} s ({last.__cause__ or last if last else 'no try'})\n"
            f"  last lines of its log:\n{tail(paths.log('control-plane'))}",
            object=f"lab {paths.lab}",
            fix=f"read {paths.log('control-plane')}, then `egresslab down --lab {paths.lab}` and up again",
        ) from error


async def wait_for_nodes(api: Api, paths: LabPaths, names: Iterable[str], deadline_s: float) -> None:
    """Until every named node is Ready."""
    wanted = set(names)

    def missing(reflector: Reflector) -> list[str]:
        return sorted(wanted - {node["metadata"]["name"] for node in reflector if is_ready(node)})

    await _follow(api, NODES, None, missing, deadline_s, "nodes are not Ready", paths, lambda node: f"node-{node}")


async def wait_for_rollouts(
    api: Api, paths: LabPaths, workloads: Iterable[Object], nodes: int, deadline_s: float
) -> None:
    """Until every DaemonSet and Deployment of kube-system among the objects is rolled out."""
    waits = []
    for resource in (DAEMONSETS, DEPLOYMENTS):
        names = {
            obj["metadata"]["name"]
            for obj in workloads
            if obj["kind"] == resource.kind and obj["metadata"].get("namespace") == "kube-system"
        }
        if names:

            def missing(reflector: Reflector, names: set[str] = names) -> list[str]:
                return sorted(names - {obj["metadata"]["name"] for obj in reflector if is_rolled_out(obj, nodes)})

            what = f"{resource.plural} are not rolled out"
            waits.append(
                _follow(api, resource, "kube-system", missing, deadline_s, what, paths, lambda _: "control-plane")
            )
    await asyncio.gather(*waits)


async def _follow(
    api: Api,
    resource: Resource,
    namespace: str | None,
    missing: Callable[[Reflector], list[str]],
    deadline_s: float,
    what: str,
    paths: LabPaths,
    process_of: Callable[[str], str],
) -> None:
    changed = asyncio.Event()

    def wake(_: ObjectChange) -> None:
        changed.set()

    reflector = Reflector(api, resource, wake, namespace=namespace)
    follower = asyncio.create_task(reflector.run(), name=f"follow {resource.plural}")
    left: list[str] = ["everything"]
    try:
        async with asyncio.timeout(deadline_s):
            await reflector.synced.wait()
            while left := missing(reflector):
                changed.clear()
                await changed.wait()
    except TimeoutError as error:
        log = paths.log(process_of(left[0]))
        raise EnvironmentFailure(
            f"{what} within {deadline_s:g} s: {', '.join(left)}\n  last lines of {log}:\n{tail(log)}",
            object=f"lab {paths.lab}",
            fix=f"`egresslab kubectl --lab {paths.lab} -- get pods,events -A` shows more; `egresslab down` starts over",
        ) from error
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
