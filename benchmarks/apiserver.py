"""What the embedded control plane costs and how fast it answers.

Brings a lab up, measures it idle, then loads it with pods that no scheduler will place, so that the API server alone is
measured. Prints one JSON object; every time is in the unit its key ends with. `lab_rss_mib` adds up every process
in a namespace or below a process of the lab; `lab_pss_mib` beside it counts shared pages once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from egresslab.api.connection import Api, connect
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import NAMESPACES, PODS, Object
from egresslab.environments.base import Silent
from egresslab.environments.netns.doctor import kubectl_path
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.records import read_record

NAMESPACE = "bench-apiserver"
AT_ONCE = 16
WATCHERS = 50
DEADLINE_S = 300.0


def pod(name: str) -> Object:
    """A pod that stays Pending: its scheduler does not exist."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "bench", "number": name}},
        "spec": {
            "schedulerName": "none",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "busybox", "command": ["sleep", "infinity"]}],
        },
    }


async def create(api: Api, first: int, count: int) -> float:
    """Seconds to create `count` pods with AT_ONCE requests at a time."""
    names = iter(range(first, first + count))

    async def work() -> None:
        for number in names:
            await api.create(PODS, pod(f"pod-{number:05d}"), NAMESPACE)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return time.perf_counter() - started


async def watch_delays(api: Api, repeats: int, watchers: int) -> tuple[list[float], list[float]]:
    """Milliseconds from sending a change to seeing it, one change at a time: in each of the watches, and in the last of
    them. All of them are read by this process, which is counted in."""
    arrived: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    def on_change(change: ObjectChange) -> None:
        mark = (change.object["metadata"].get("annotations") or {}).get("mark")
        if change.type is ChangeType.MODIFIED and mark:
            arrived.put_nowait((mark, time.perf_counter()))

    async with asyncio.TaskGroup() as group:
        reflectors = [Reflector(api, PODS, on_change, namespace=NAMESPACE, strip=_marked) for _ in range(watchers)]
        tasks = [group.create_task(reflector.run()) for reflector in reflectors]
        for reflector in reflectors:
            await reflector.wait_synced(DEADLINE_S)
        each, last = [], []
        for number in range(repeats):
            sent = time.perf_counter()
            change = {"metadata": {"annotations": {"mark": str(number)}}}
            answer = asyncio.create_task(api.patch(PODS, f"pod-{number:05d}", change, NAMESPACE))
            seen = [await asyncio.wait_for(arrived.get(), DEADLINE_S) for _ in reflectors]
            await answer
            assert {mark for mark, _ in seen} == {str(number)}
            delays = [(moment - sent) * 1e3 for _, moment in seen]
            each += delays
            last.append(max(delays))
        for task in tasks:
            task.cancel()
    return each, last


def _marked(obj: Object) -> Object:
    """What is looked at: fifty copies of everything would measure this process' memory."""
    wanted = ("name", "namespace", "uid", "resourceVersion", "annotations")
    return {"metadata": {key: value for key, value in obj["metadata"].items() if key in wanted}}


def kubectl_list(kubeconfig: Path) -> float:
    """Seconds for `kubectl get pods`, whole process."""
    started = time.perf_counter()
    command = [str(kubectl_path()), "--kubeconfig", str(kubeconfig), "get", "pods", "-n", NAMESPACE, "--no-headers"]
    lines = subprocess.run(command, check=True, capture_output=True).stdout.count(b"\n")
    assert lines >= 5000, lines
    return time.perf_counter() - started


def lab_processes(paths: LabPaths) -> list[psutil.Process]:
    """Every process of the lab: the recorded ones, their descendants, and whoever is in one of its namespaces."""
    inodes = {file.stat().st_ino for file in Path("/run/netns").glob(f"egresslab-{paths.lab}-*")}
    roots = {record.pid for file in paths.processes.glob("*.json") if (record := read_record(file)) is not None}
    found = set()
    for process in psutil.process_iter():
        try:
            inside = Path(f"/proc/{process.pid}/ns/net").stat().st_ino in inodes
            if inside or process.pid in roots or any(parent.pid in roots for parent in process.parents()):
                found.add(process)
        except (psutil.NoSuchProcess, FileNotFoundError, PermissionError):
            continue
    return sorted(found, key=lambda process: process.pid)


def cpu_s(processes: list[psutil.Process]) -> float:
    """CPU seconds used by the processes that still live, and by their children that have ended: probes, for example."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mib(processes: list[psutil.Process]) -> tuple[float, float]:
    """(resident, proportional) MiB of all processes together."""
    resident = proportional = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        resident += memory.rss
        proportional += memory.pss
    return round(resident / 2**20, 1), round(proportional / 2**20, 1)


def spread(values: list[float]) -> dict[str, float]:
    """p50, p99 and max, to a hundredth."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"p50": round(statistics.median(ordered), 2), "p99": round(p99, 2), "max": round(ordered[-1], 2)}


async def load(kubeconfig: Path, repeats: int) -> dict[str, Any]:
    """Everything that needs the API server alone."""
    async with connect(kubeconfig) as api:
        await api.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
        first = await create(api, 0, 1000)
        print(f"1000 pods in {first:.2f} s", file=sys.stderr)
        delays, last = await watch_delays(api, repeats, WATCHERS)
        rest = await create(api, 1000, 4000)
        print(f"4000 more in {rest:.2f} s", file=sys.stderr)
        lists = [await asyncio.to_thread(kubectl_list, kubeconfig) for _ in range(5)]
        return {
            "create_1000_pods_s": round(first, 3),
            "watchers": WATCHERS,
            "watch_ms": spread(delays),
            "watch_last_ms": spread(last),
            "kubectl_list_5000_s": round(statistics.median(lists), 3),
            "kubectl_list_5000_range_s": [round(min(lists), 3), round(max(lists), 3)],
        }


def idle(paths: LabPaths, seconds: float) -> dict[str, Any]:
    """A lab that nobody uses."""
    processes = lab_processes(paths)
    before, started = cpu_s(processes), time.perf_counter()
    time.sleep(seconds)
    percent = 100 * (cpu_s(processes) - before) / (time.perf_counter() - started)
    resident, proportional = memory_mib(processes)
    return {
        "lab_rss_mib": resident,
        "lab_pss_mib": proportional,
        "idle_core_percent": round(percent, 2),
        "processes": len(processes),
    }


def main() -> None:
    """Bring a lab up, measure it idle and loaded, take it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", default="bench-apiserver")
    parser.add_argument("--repeats", type=int, default=200, help="changes seen through a watch")
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    parser.add_argument("--settle-seconds", type=float, default=10.0, help="between coming up and measuring it idle")
    options = parser.parse_args()
    lab = NetnsEnvironment(options.lab)
    result: dict[str, Any] = {}
    try:
        result["up_s"] = round(lab.create(Silent()).seconds, 2)
        print(f"up in {result['up_s']} s", file=sys.stderr)
        time.sleep(options.settle_seconds)
        result |= idle(LabPaths(options.lab), options.idle_seconds)
        result |= asyncio.run(load(lab.kubeconfig(), options.repeats))
    finally:
        started = time.perf_counter()
        lab.delete(Silent())
        result["down_s"] = round(time.perf_counter() - started, 2)
    print(json.dumps({**result, "kernel": platform.release(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
