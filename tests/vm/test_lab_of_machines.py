"""A lab whose nodes are machines: what it promises, what breaks it, and that it mends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from egresslab.api.resources import FAULTS, NODES, PODS
from egresslab.environments.base import Fault, FaultKind, Phase
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.records import is_alive, read_record
from egresslab.environments.vm.environment import VmEnvironment
from egresslab.errors import EnvironmentFailure
from egresslab.lab import nodes, waits
from egresslab.lab.client import Client

from .conftest import LAB, Inside

pytestmark = [pytest.mark.vm, pytest.mark.root]
BACK_S = 600.0
WORKER = "lab-worker2"
BOOT = "cat /proc/sys/kernel/random/boot_id"


def wait(what: str, condition: Callable[[], object], timeout_s: float = BACK_S) -> None:
    waits.wait_for(what, lambda: bool(condition()), timeout_s=timeout_s)


def ready(client: Client, name: str) -> bool:
    return nodes.ready(client.get(NODES, name))


def boot_of(inside: Inside) -> str:
    return inside(WORKER, BOOT).stdout


def booted_since(inside: Inside, before: str) -> bool:
    try:
        return boot_of(inside) not in ("", before)
    except EnvironmentFailure:
        return False


def egresslab(*words: str, timeout_s: float = 3000) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "egresslab.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_every_worker_has_a_kernel_of_its_own(lab: VmEnvironment, client: Client) -> None:
    facts = {body["metadata"]["name"]: body["status"]["nodeInfo"] for body in client.list(NODES)}
    kernels = {name: info["kernelVersion"] for name, info in facts.items()}
    assert len(facts) == 4 and len({info["bootID"] for info in facts.values()}) == 4
    assert all("cloud" in kernel for name, kernel in kernels.items() if name != "lab-control-plane"), kernels
    seen = lab.status()
    assert (seen.environment, seen.phase) == ("vm", Phase.RUNNING)
    assert any("console of lab-worker" in remark for remark in seen.remarks)


def test_up_again_changes_nothing_and_another_environment_is_refused(lab: VmEnvironment) -> None:
    again = egresslab("up", "--environment", "vm", "--lab", LAB)
    assert again.returncode == 0 and "up already" in again.stderr
    other = egresslab("up", "--lab", LAB)
    assert other.returncode == 1 and "--environment vm" in other.stderr


def test_a_pulled_cable_is_felt_by_the_machines_card(lab: VmEnvironment, client: Client, inside: Inside) -> None:
    carrier = "cat /sys/class/net/eth1/carrier"
    lab.break_(Fault(FaultKind.CUT, WORKER, "public"))
    try:
        wait("the carrier to go", lambda: inside(WORKER, carrier).stdout.strip() == "0")
        assert ready(client, WORKER), "the cluster's network is another cable"
    finally:
        lab.heal(WORKER)
    wait("the carrier to come back", lambda: inside(WORKER, carrier).stdout.strip() == "1")


def test_a_kernel_that_hung_goes_on_where_it_was(lab: VmEnvironment, client: Client, inside: Inside) -> None:
    before = boot_of(inside)
    lab.break_(Fault(FaultKind.HANG, WORKER))
    try:
        wait("the node to be missed", lambda: not ready(client, WORKER))
    finally:
        lab.heal(WORKER)
    wait("the node to be Ready", lambda: ready(client, WORKER))
    assert boot_of(inside) == before


def test_a_reset_machine_starts_again_and_rejoins(lab: VmEnvironment, client: Client, inside: Inside) -> None:
    before = boot_of(inside)
    lab.break_(Fault(FaultKind.POWER, WORKER))
    wait("another boot", lambda: booted_since(inside, before))
    wait("the node to know of it", lambda: client.get(NODES, WORKER)["status"]["nodeInfo"]["bootID"] != before.strip())
    assert lab.faults() == ()


def test_a_crashed_machine_is_gone_until_it_is_healed_and_keeps_its_disk(
    lab: VmEnvironment, client: Client, inside: Inside
) -> None:
    inside(WORKER, "echo kept > /var/lib/mark; rm -f /run/mark; touch /run/mark; sync")
    before = boot_of(inside)
    lab.break_(Fault(FaultKind.CRASH, WORKER))
    process = next(one for one in lab.status().processes if one.name == f"node-{WORKER}")
    assert process.pid is None and process.held
    lab.heal(WORKER)
    wait("another boot", lambda: booted_since(inside, before))
    assert inside(WORKER, "cat /var/lib/mark; ls /run/mark").stdout.split() == ["kept"]
    wait("the node to be Ready", lambda: ready(client, WORKER))
    wait("its agent", lambda: all_agents_ready(client))
    assert lab.status().phase is Phase.RUNNING


@contextmanager
def broken(client: Client, kind: str, **more: object) -> Iterator[None]:
    """A Fault object for as long as the block lasts, and until what it broke is mended."""
    name = f"test-{kind.lower()}"
    body = {"apiVersion": FAULTS.api_version, "kind": FAULTS.kind, "metadata": {"name": name}}
    client.apply(FAULTS, {**body, "spec": {"type": kind, "target": WORKER, **more}})
    try:
        wait("the fault to be done", lambda: (client.get(FAULTS, name).get("status") or {}).get("phase") == "Active")
        yield
    finally:
        client.delete(FAULTS, name)
    wait("the fault to be mended", lambda: client.find(FAULTS, name) is None)


def machine_process() -> tuple[int, str]:
    """PID and state (proc(5)) of the machine; 0 when it is not running."""
    record = read_record(LabPaths(LAB).processes / f"node-{WORKER}.json")
    if record is None or not is_alive(record):
        return 0, ""
    return record.pid, Path(f"/proc/{record.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_fault_objects_break_the_machine_itself(lab: VmEnvironment, client: Client, inside: Inside) -> None:
    before, _ = machine_process()
    with broken(client, "Cut", network="public"):
        wait("the carrier to go", lambda: inside(WORKER, "cat /sys/class/net/eth1/carrier").stdout.strip() == "0")
    wait("the carrier to come back", lambda: inside(WORKER, "cat /sys/class/net/eth1/carrier").stdout.strip() == "1")
    with broken(client, "Hang"):
        assert machine_process() == (before, "T")
    assert machine_process()[0] == before and machine_process()[1] != "T"
    boot = boot_of(inside)
    with broken(client, "Power", durationSeconds=600):
        assert machine_process()[0] == 0, "it has no power"
    wait("another boot", lambda: booted_since(inside, boot))
    assert machine_process()[0] not in (0, before)
    wait("the node to be Ready", lambda: ready(client, WORKER))
    wait("its agent", lambda: all_agents_ready(client))


def all_agents_ready(client: Client) -> bool:
    pods = client.list(PODS, "kube-system", labelSelector="app.kubernetes.io/name=egresslab-agent")
    return len(pods) == 4 and all(nodes.ready(pod) for pod in pods)


def test_a_console_shows_how_its_node_started(lab: VmEnvironment) -> None:
    text = LabPaths(LAB).log(f"node-{WORKER}").read_text()
    assert f"{WORKER} is up, kernel" in text and "is registered and ready" in text


def test_connections_outlive_their_gateway(lab: VmEnvironment, client: Client) -> None:
    wait("every agent", lambda: all_agents_ready(client))
    drill = egresslab("drill", "failover", "--lab", LAB, "-o", "json")
    assert drill.stdout, drill.stderr
    result = json.loads(drill.stdout)
    print(json.dumps(result)[:3000])
    print(f"exit {drill.returncode}: {drill.stderr[-500:]}")
    assert drill.returncode == 0, drill.stdout[-3000:]


@pytest.mark.parametrize("chapter", ["01", "02", "07", "08", "12"])
def test_chapters_pass(lab: VmEnvironment, client: Client, tmp_path, chapter: str) -> None:  # type: ignore[no-untyped-def]
    wait("every agent", lambda: all_agents_ready(client))
    begun = time.monotonic()
    run = egresslab(
        "labs", "run", chapter, "--environment", "vm", "--lab", LAB, "--at-least", "1", "--out", str(tmp_path)
    )
    print(f"chapter {chapter}: {time.monotonic() - begun:.0f} s")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
