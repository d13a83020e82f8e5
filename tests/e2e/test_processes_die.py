"""Killing any one process of the lab leaves established traffic alone; the process comes back, nothing is doubled."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.environments.netns.paths import LabPaths
from egresslab.lab import Lab
from tests.e2e.policies import ELSEWHERE, IFCONFIG, PUBLIC, policy

BEATS = 40
INTERVAL_S = 0.2
TALK = f"i=0; while [ $i -lt {BEATS} ]; do echo beat $i; i=$((i+1)); sleep {INTERVAL_S}; done | nc 203.0.113.10 7777"
"""A connection that the pod itself keeps up, so that it depends on no process but the two at its ends."""


def processes(environment: NetnsEnvironment) -> dict[str, int]:
    return {p.name: p.pid for p in environment.status().processes if p.pid is not None}


def agents(lab: Lab) -> dict[str, str]:
    listed = json.loads(lab.kubectl("get pods -n kube-system -o json").stdout)["items"]
    return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in listed}


def names(environment: NetnsEnvironment) -> list[str]:
    return [name for name in processes(environment) if name != "outside"]


def test_an_established_connection_outlives_every_process(lab: Lab, environment: NetnsEnvironment) -> None:
    """One long connection through a remote gateway; meanwhile every process is killed, one after the other."""
    lab.apply(policy(lab.current_namespace))
    lab.run_pod("probe", node=ELSEWHERE)
    lab.wait_for("the policy", lambda: str(lab.observed_address("probe", IFCONFIG)) == PUBLIC[4], timeout_s=5)
    pods_before = agents(lab)
    before = processes(environment)
    lab.run_pod("talker", image="nicolaka/netshoot", node=ELSEWHERE, command=["sh", "-c", f"{TALK}; sleep infinity"])
    for name in names(environment):
        pid = processes(environment)[name]
        os.kill(pid, signal.SIGKILL)
        lab.wait_for(
            f"{name} to come back", lambda n=name, p=pid: processes(environment).get(n) not in (None, p), timeout_s=15
        )

    def log() -> list[str]:
        return lab.kubectl("logs talker", check=False).stdout.splitlines()

    lab.wait_for("the last beat", lambda: any(f"beat {BEATS - 1}" in line for line in log()), timeout_s=30)
    beats = [re.fullmatch(r"(\S+) (\d+) beat (\d+)", line) for line in log()]
    assert all(beats)
    assert Counter(int(beat[3]) for beat in beats if beat) == Counter(range(BEATS))
    assert len({(beat[1], beat[2]) for beat in beats if beat}) == 1, "one connection from one address and port"
    assert beats[0] is not None
    assert beats[0][1] == PUBLIC[4]
    assert processes(environment).keys() == before.keys()
    assert agents(lab) == pods_before


@pytest.mark.parametrize(("victim", "node"), [("agent", ELSEWHERE), ("operator", "lab-control-plane")])
def test_a_killed_agent_or_operator_is_started_again(
    lab: Lab, environment: NetnsEnvironment, victim: str, node: str
) -> None:
    lab.run_pod("client", node=ELSEWHERE)
    lab.apply(policy(lab.current_namespace))
    lab.wait_for("the policy", lambda: str(lab.observed_address("client", IFCONFIG)) == PUBLIC[4], timeout_s=5)

    def container() -> dict[str, object]:
        listed = json.loads(
            lab.kubectl(
                f"get pods -n kube-system -l app.kubernetes.io/name=egresslab-{victim}"
                f" --field-selector spec.nodeName={node} -o json"
            ).stdout
        )["items"]
        found: dict[str, object] = listed[0]["status"]["containerStatuses"][0]
        found["pod"] = listed[0]["metadata"]["name"]
        return found

    before = container()
    killed = [process for process in psutil.process_iter() if _is(process, f"egresslab.{victim}", environment, node)]
    assert killed
    killed[0].kill()
    lab.wait_for(
        "a restart",
        lambda: container()["restartCount"] != before["restartCount"] and container()["ready"] is True,
        timeout_s=30,
    )
    assert str(lab.observed_address("client", IFCONFIG)) == PUBLIC[4]


def _is(process: psutil.Process, module: str, environment: NetnsEnvironment, node: str) -> bool:
    """Whether a process of this lab's node runs the module."""
    inode = LabPaths(environment.lab).namespace_file(node).stat().st_ino
    try:
        return module in process.cmdline() and Path(f"/proc/{process.pid}/ns/net").stat().st_ino == inode
    except (psutil.Error, OSError):
        return False
