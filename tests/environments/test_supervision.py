"""Two supervisors and the processes they keep: whatever is killed comes back, and nothing runs twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from egresslab.environments.netns.construction import start_supervisor
from egresslab.environments.netns.demolition import demolish
from egresslab.environments.netns.faults import wake_supervisor
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.records import (
    ProcessRecord,
    boot_id,
    is_alive,
    kill,
    read_records,
    start_time,
    write_record,
)
from egresslab.environments.netns.supervisor import ACTIVE, STANDBY, spawn

pytestmark = pytest.mark.root

NAMES = ("one", "two", "three")
DEADLINE_S = 10.0


@pytest.fixture
def supervised(paths: LabPaths) -> Iterator[LabPaths]:
    """A lab of three sleepers under supervision."""
    for directory in (paths.root, paths.processes, paths.held, paths.logs):
        directory.mkdir(parents=True)
    paths.plan.write_text(json.dumps({name: _sleeper(paths, name) for name in NAMES}))
    start_supervisor(paths)
    eventually(lambda: set(running(paths)) == {*NAMES, ACTIVE, STANDBY}, "everything to run")
    yield paths
    demolish(paths, None)
    paths.root.rmdir()


def _sleeper(paths: LabPaths, name: str) -> list[str]:
    return ["/bin/sh", "-c", f"exec tail -f {paths.root}/../../{name} /dev/null", f"{paths.root}/{name}"]


def running(paths: LabPaths) -> dict[str, int]:
    """Living recorded processes: name to PID."""
    return {record.name: record.pid for record in read_records(paths.processes) if is_alive(record)}


def processes_of(paths: LabPaths) -> list[int]:
    """Every process of the lab there is, recorded or not, by its command line."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):
            if process.name.isdigit() and start_time(int(process.name)) is not None:
                command = (process / "cmdline").read_bytes().split(b"\0")
                text = b" ".join(command).decode(errors="replace")
                if f"{paths.root}/" in text or f"supervisor --lab {paths.lab}" in text:
                    found.append(int(process.name))
    return sorted(found)


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fails saying what was waited for."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s in vain for {what}"
        time.sleep(0.005)


def settled(paths: LabPaths) -> bool:
    """Everything runs, once."""
    now = running(paths)
    return set(now) == {*NAMES, ACTIVE, STANDBY} and sorted(now.values()) == processes_of(paths)


@pytest.mark.parametrize("name", [*NAMES[:1], ACTIVE, STANDBY])
def test_killed_process_comes_back_and_the_others_stay(supervised: LabPaths, name: str) -> None:
    before = running(supervised)
    os.kill(before[name], signal.SIGKILL)
    eventually(
        lambda: settled(supervised) and running(supervised).get(name) not in (None, before[name]),
        f"{name} to come back",
    )
    after = running(supervised)
    assert all(after[other] == before[other] for other in NAMES if other != name)


def test_random_killings_leave_exactly_one_of_each(supervised: LabPaths) -> None:
    chance = random.Random(20261121)
    for _ in range(25):
        now = running(supervised)
        if now:
            with suppress(ProcessLookupError):
                kill([os.pidfd_open(now[chance.choice(sorted(now))])], time.monotonic() + DEADLINE_S)
        if not {ACTIVE, STANDBY} & set(running(supervised)):
            # A lab whose two supervisors both die within moments is for `up` to repair.
            start_supervisor(supervised)
        if chance.random() < 0.3:
            eventually(lambda: {ACTIVE, STANDBY} <= set(running(supervised)), "two supervisors")
    eventually(lambda: settled(supervised), "the lab to settle")


def test_held_process_stays_dead_until_it_is_let_go(supervised: LabPaths) -> None:
    before = running(supervised)
    (supervised.held / "two").touch()
    os.kill(before["two"], signal.SIGKILL)
    os.kill(before["three"], signal.SIGKILL)
    eventually(lambda: running(supervised).get("three") not in (None, before["three"]), "three to come back")
    assert "two" not in running(supervised)
    (supervised.held / "two").unlink()
    wake_supervisor(supervised)
    eventually(lambda: settled(supervised), "two to come back")


def test_third_supervisor_goes_away(supervised: LabPaths) -> None:
    before = processes_of(supervised)
    pid = spawn(supervised, "intruder", ["/bin/true"], 0)
    os.waitpid(pid, 0)
    (supervised.processes / "intruder.json").unlink()
    start_supervisor(supervised)
    eventually(lambda: processes_of(supervised) == before, "the third supervisor to leave")


def test_process_does_not_start_when_its_supervisor_dies_before_recording_it(paths: LabPaths) -> None:
    for directory in (paths.processes, paths.logs):
        directory.mkdir(parents=True)
    witness = paths.root / "witness"
    supervisor = os.fork()
    if supervisor == 0:
        with suppress(BaseException):
            import egresslab.environments.netns.supervisor as module

            module.write_record = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            spawn(paths, "early", ["/usr/bin/touch", str(witness)], 0)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(supervisor, 0)[1])
    eventually(lambda: processes_of(paths) == [], "the child to end unheard")
    assert not witness.exists()
    demolish(paths, None)
    paths.root.rmdir()


def test_recycled_pid_is_not_ours() -> None:
    own = os.getpid()
    ours = ProcessRecord("x", own, start_time(own) or 0, boot_id(), [], 0.0)
    assert is_alive(ours)
    assert not is_alive(ProcessRecord("x", own, ours.start_time - 1, boot_id(), [], 0.0))
    assert not is_alive(ProcessRecord("x", own, ours.start_time, "another boot", [], 0.0))


def test_zombie_is_dead(paths: LabPaths) -> None:
    paths.processes.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        os._exit(0)
    record = ProcessRecord("z", child, start_time(child) or 0, boot_id(), [], 0.0)
    write_record(paths.processes, record)
    eventually(lambda: not is_alive(record), "the child to be a zombie")
    os.waitpid(child, 0)
    demolish(paths, None)
    paths.root.rmdir()
