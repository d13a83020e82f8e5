"""Kills the agent of one node as a crash of the program would: its container's first process, by the kubelet's record.

The pod stays, and the kubelet starts the container again.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from egresslab.cluster.node.pidfd import pidfd
from egresslab.environments.netns.labrecord import read_lab
from egresslab.environments.netns.locks import Busy
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.records import kill, start_time
from egresslab.environments.vm import machine

NAMESPACE, POD_PREFIX, CONTAINER = "kube-system", "egresslab-agent-", "agent"
DEADLINE_S = 5.0
INSIDE = "pid=$(busybox pgrep -f '^python -m egresslab.agent$') && echo $pid && kill -9 $pid"
"""For a node that is a machine, whose kubelet's records are inside."""


def kill_agent(paths: LabPaths, node: str) -> int:
    """Kill it and wait until it is gone; its PID. Raises `Busy` while none runs there."""
    lab = read_lab(paths)
    if lab is not None and node in lab.machines:
        answer = machine.run(paths, node, ["/bin/sh", "-c", INSIDE])
        if answer.exit_code == 0:
            return int(answer.stdout.split()[0])
        raise _nobody(paths, node)
    for pod in sorted((paths.node(node) / "pods").glob("*/pod.json")):
        about = json.loads(pod.read_text())
        if about["namespace"] == NAMESPACE and about["name"].startswith(POD_PREFIX):
            descriptor = _first_process(pod.parent / "containers" / CONTAINER)
            if descriptor is not None:
                pid, handle = descriptor
                kill([handle], time.monotonic() + DEADLINE_S)
                return pid
    raise _nobody(paths, node)


def _nobody(paths: LabPaths, node: str) -> Busy:
    return Busy(
        "no agent runs there now",
        object=f"node {node}",
        fix=f"egresslab kubectl --lab {paths.lab} -- -n {NAMESPACE} get pods -o wide",
    )


def _first_process(container: Path) -> tuple[int, int] | None:
    """PID and pidfd of the first process of the container's latest run, if that is alive."""
    runs = sorted((run for run in container.glob("*/record.json")), key=lambda run: int(run.parent.name))
    init = json.loads(runs[-1].read_text()).get("init") if runs else None
    if not init:
        return None
    handle = pidfd(init["pid"])
    if handle is None:
        return None
    if start_time(init["pid"]) != init["start_time"]:
        os.close(handle)
        return None
    return int(init["pid"]), handle
