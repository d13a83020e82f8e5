"""A whole lab with its real processes: up, down, killed anywhere, broken and healed; and nothing is ever left."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from egresslab.environments.netns.construction import start_supervisor
from egresslab.environments.netns.demolition import demolish
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.readiness import unless_ending
from egresslab.environments.netns.records import is_alive, read_records
from egresslab.errors import EnvironmentFailure
from tests.environments.conftest import leftovers, own_lab
from tests.environments.namespaces import inside

pytestmark = pytest.mark.root

EGRESSLAB = [sys.executable, "-m", "egresslab.cli.main"]
DEADLINE_S = 60.0


def run(paths: LabPaths, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`egresslab …` for a lab."""
    environment = {**os.environ, "EGRESSLAB_LAB": paths.lab}
    return subprocess.run([*EGRESSLAB, *arguments], capture_output=True, text=True, timeout=120, env=environment)


def up(paths: LabPaths) -> str:
    """Bring the lab up without the egress controller; returns what was said."""
    answer = run(paths, "up", "--bare")
    assert answer.returncode == 0, answer.stderr
    return answer.stderr


def nodes(paths: LabPaths) -> dict[str, bool]:
    """Ready or not, by name, from the API."""
    answer = run(paths, "kubectl", "get", "nodes", "-o", "json")
    if answer.returncode:
        return {}
    return {
        node["metadata"]["name"]: any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in node["status"].get("conditions", ())
        )
        for node in json.loads(answer.stdout)["items"]
    }


def pids(paths: LabPaths) -> dict[str, int]:
    """The lab's living processes."""
    return {record.name: record.pid for record in read_records(paths.processes) if is_alive(record)}


def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition; fails saying what was waited for."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s in vain for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def lab() -> Iterator[LabPaths]:
    """A running lab, taken down by the command that users have; tests leave it as whole as they found it."""
    with own_lab() as paths:
        up(paths)
        yield paths
        answer = run(paths, "down")
        assert answer.returncode == 0, answer.stderr


def test_running_lab_is_left_alone_and_a_second_one_fits_beside_it(lab: LabPaths) -> None:
    before = pids(lab)
    assert "nothing changed" in up(lab)
    assert pids(lab) == before
    other = LabPaths(f"{lab.lab}-2")
    try:
        up(other)
        assert (
            set(nodes(other))
            == set(nodes(lab))
            == {f"lab-{n}" for n in ("control-plane", "worker", "worker2", "worker3")}
        )
        assert all(nodes(lab).values())
        assert pids(lab) == before
    finally:
        assert run(other, "down").returncode == 0
    assert leftovers(other) == []
    assert pids(lab) == before
    status = json.loads(run(lab, "status", "-o", "json").stdout)
    assert status["phase"] == "running"
    assert all(node["ready"] for node in status["nodes"])


def test_any_killed_process_comes_back_once_and_the_lab_stays_whole(lab: LabPaths) -> None:
    chance = random.Random(7)
    names = sorted(pids(lab))
    for name in chance.sample(names, len(names)):
        before = pids(lab)
        os.kill(before[name], signal.SIGKILL)
        eventually(lambda: pids(lab).get(name) not in (None, before[name]), f"{name} to come back")  # noqa: B023
        eventually(lambda: set(pids(lab)) == set(names), "every process")
    eventually(lambda: all(nodes(lab).values()) and len(nodes(lab)) == 4, "all nodes to be Ready again")
    commands = []
    for record in read_records(lab.processes):
        if not record.name.startswith("supervisor"):
            commands.append(" ".join(record.argv))
    running = [_command(pid) for pid in os.listdir("/proc") if pid.isdigit()]  # noqa: PTH208
    assert [running.count(command) for command in commands] == [1] * len(commands)


def _command(pid: str) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123
        return file.read().strip("\0").replace("\0", " ")
    return ""


def test_everything_killed_at_once_is_mended_by_up(lab: LabPaths) -> None:
    for pid in pids(lab).values():
        os.kill(pid, signal.SIGKILL)
    assert "is up (" in up(lab)
    assert all(nodes(lab).values())


def test_crashed_node_falls_silent_and_joins_again_when_healed(lab: LabPaths) -> None:
    assert run(lab, "fault", "crash", "lab-worker2").returncode == 0
    assert inside(lab, "lab-worker", "ping", "-nqc1", "-W1", "192.168.60.12").returncode != 0
    assert not lab.namespace_file("lab-worker2").exists()
    faults = json.loads(run(lab, "fault", "list", "-o", "json").stdout)
    assert faults == [{"kind": "crash", "target": "lab-worker2", "network": None}]
    assert run(lab, "status").returncode == 1
    healed = run(lab, "fault", "heal", "lab-worker2")
    assert healed.returncode == 0, healed.stderr
    eventually(lambda: run(lab, "status").returncode == 0, "the lab to be whole again")
    assert inside(lab, "lab-worker", "ping", "-nqc1", "-W1", "192.168.60.12").returncode == 0


def test_cut_network_is_cut_and_plugged_in_again(lab: LabPaths) -> None:
    assert run(lab, "fault", "cut", "lab-worker", "--network", "public").returncode == 0
    assert inside(lab, "lab-worker", "ping", "-nqc1", "-W1", "172.18.18.1").returncode != 0
    assert inside(lab, "lab-worker", "ping", "-nqc1", "-W1", "192.168.60.1").returncode == 0
    assert run(lab, "fault", "heal", "lab-worker").returncode == 0
    for router in ("172.18.18.1", "fd00:18::1", "192.168.60.1", "2001:db8:113::10"):
        assert inside(lab, "lab-worker", "ping", "-nqc5", "-i0.1", "-W1", router).returncode == 0, router
    assert run(lab, "fault", "list", "-o", "json").stdout.strip() == "[]"


def test_stopped_process_stays_away_until_it_is_healed(lab: LabPaths) -> None:
    assert run(lab, "fault", "stop", "outside").returncode == 0
    assert [record.name for record in read_records(lab.processes) if not is_alive(record)] == ["outside"]
    assert json.loads(run(lab, "fault", "list", "-o", "json").stdout)[0]["kind"] == "stop"
    assert run(lab, "fault", "heal", "outside").returncode == 0
    eventually(lambda: all(is_alive(record) for record in read_records(lab.processes)), "the outside to come back")
    assert run(lab, "fault", "list", "-o", "json").stdout.strip() == "[]"


def test_firewall_outside_follows_its_configmap(lab: LabPaths, tmp_path: Path) -> None:
    def curl(node: str) -> int:
        return inside(lab, node, "curl", "-sm2", "http://192.168.60.13/").returncode

    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "firewall", "namespace": "outside"},
        "data": {"allow": "192.168.60.11", "servers": "external"},
    }
    (tmp_path / "firewall.json").write_text(json.dumps(manifest))
    answer = run(lab, "kubectl", "apply", "-f", str(tmp_path / "firewall.json"))
    assert answer.returncode == 0, answer.stderr
    eventually(lambda: curl("lab-worker2") == 7, "the firewall to refuse a stranger")
    assert curl("lab-worker") == 0
    log = ("kubectl", "-n", "outside", "logs", "firewall")
    eventually(lambda: " refused tcp 192.168.60.12" in run(lab, *log).stdout, "the refusal in the firewall's log")
    addresses = run(lab, "kubectl", "-n", "outside", "exec", "capture", "--", "ip", "-br", "address").stdout
    assert "192.168.60.13/24" in addresses
    broken = '{"data":{"allow":"no-address"}}'
    assert run(lab, "kubectl", "-n", "outside", "patch", "configmap", "firewall", "-p", broken).returncode == 0
    events = ("kubectl", "-n", "outside", "get", "events", "-o", "jsonpath={.items[*].message}")
    eventually(lambda: "data.allow, line 1" in run(lab, *events).stdout, "an event that names the mistake")
    assert curl("lab-worker2") == 7
    assert run(lab, "kubectl", "-n", "outside", "delete", "configmap", "firewall").returncode == 0
    eventually(lambda: curl("lab-worker2") == 0, "the firewall to open")


def test_process_that_cannot_start_is_reported_with_its_log(paths: LabPaths) -> None:
    with pytest.raises(EnvironmentFailure) as failure:
        asyncio.run(_wait_for_a_hopeless_process(paths))
    assert failure.value.object == "process hopeless"
    assert "no such configuration" in failure.value.message


async def _wait_for_a_hopeless_process(paths: LabPaths) -> None:
    for directory in (paths.root, paths.processes, paths.held, paths.logs):
        directory.mkdir(parents=True)
    argv = ["/bin/sh", "-c", "echo no such configuration; exit 1"]
    paths.plan.write_text(json.dumps({"hopeless": argv}))
    start_supervisor(paths)
    try:
        await unless_ending(paths, ["hopeless"], asyncio.sleep(DEADLINE_S))
    finally:
        demolish(paths, None)
        paths.root.rmdir()


@pytest.mark.parametrize("seconds", [0.2, 0.4, 0.55, 1.5])
def test_up_that_is_killed_leaves_what_down_can_remove(paths: LabPaths, seconds: float) -> None:
    _killed_up(paths, seconds, signal.SIGKILL)
    answer = run(paths, "down")
    assert answer.returncode == 0, answer.stderr
    assert leftovers(paths) == []


def test_up_that_is_killed_again_and_again_is_finished_by_the_last(paths: LabPaths) -> None:
    for seconds in (0.4, 0.9):
        _killed_up(paths, seconds, signal.SIGKILL)
    up(paths)
    assert len(nodes(paths)) == 4
    assert all(nodes(paths).values())
    assert run(paths, "down").returncode == 0


@pytest.mark.parametrize("seconds", [0.4, 1.2])
def test_interrupted_up_leaves_nothing(paths: LabPaths, seconds: float) -> None:
    _killed_up(paths, seconds, signal.SIGINT)
    assert leftovers(paths) == []


def _killed_up(paths: LabPaths, seconds: float, number: signal.Signals) -> None:
    process = subprocess.Popen([*EGRESSLAB, "up", "--bare", "--lab", paths.lab], stderr=subprocess.PIPE)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(number)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode != 0
