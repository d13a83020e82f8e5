"""Keeps a lab's processes running: `python -m egresslab.environments.netns.supervisor --lab NAME`.

There are two of these. One holds the lock and starts, adopts and restarts what the lab's plan names; the other sleeps
on the lock and is in charge as soon as the first one dies, by which the kernel releases it. A process is recorded
before it may execute anything, so that whoever supervises next adopts it instead of starting it twice.

What runs here stays small on purpose: no asyncio, no netlink, no Kubernetes. The one that begins a lab imports what the
lab's processes need, which it never runs itself, to fork them from there (`warm`).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from egresslab.cluster.node.pidfd import pidfd
from egresslab.environments.netns import warm
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.records import (
    ProcessRecord,
    boot_id,
    is_alive,
    open_process,
    read_record,
    start_time,
    write_record,
)

ACTIVE, STANDBY, STARTING = "supervisor", "supervisor-standby", "supervisor-starting"
SETTLED_S = 5.0
"""A process that lived this long is started again at once; one that did not is waited for a little longer each time."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
LOOK_AGAIN_S = 1.0
LOG_LIMIT_BYTES = 16 << 20


@dataclass(slots=True)
class Child:
    """A process of the plan as this supervisor sees it; `descriptor` is its pidfd while it runs."""

    descriptor: int | None = None
    pid: int = 0
    started: float = 0.0
    pause: float = 0.0
    not_before: float = 0.0


def say(text: str) -> None:
    """A line in the supervisor's log."""
    print(f"{time.strftime('%H:%M:%S')} [{os.getpid()}] {text}", flush=True)


def record_self(paths: LabPaths, name: str) -> None:
    """Remember this process under a name."""
    pid = os.getpid()
    record = ProcessRecord(name, pid, start_time(pid) or 0, boot_id(), command(paths.lab), time.time())
    write_record(paths.processes, record)


def command(lab: str) -> list[str]:
    """How a supervisor is started."""
    return [sys.executable, "-m", "egresslab.environments.netns.supervisor", "--lab", lab]


def lock(path: Path, *, wait: bool) -> int | None:
    """An exclusive flock on a file, held until this process ends; None when it is taken and we do not wait."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def spawn(paths: LabPaths, name: str, argv: list[str], restarts: int, program: warm.Program | None = None) -> int:
    """Start a process with its record written before it executes; returns its PID.

    The child waits on a pipe: if we die before the record is there the pipe breaks, and the child ends unheard. With
    `program` it does not execute `argv` but becomes the program that this stands for, by `warm.Born`.
    """
    gate, opener = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(opener)
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            log = os.open(_log(paths, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if not os.read(gate, 1):
                os._exit(127)
            if program is not None:
                warm.settle(argv)
                raise warm.Born(program)
            os.execv(argv[0], argv)
        except Exception as error:
            os.write(2, f"cannot start {argv}: {error}\n".encode())
            os._exit(127)
    os.close(gate)
    try:
        born = start_time(pid)
        if born is not None:
            write_record(paths.processes, ProcessRecord(name, pid, born, boot_id(), argv, time.time(), restarts))
            with contextlib.suppress(BrokenPipeError):
                os.write(opener, b"1")
    finally:
        os.close(opener)
    return pid


def _log(paths: LabPaths, name: str) -> Path:
    path = paths.log(ACTIVE if name == STARTING else name)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
    return path


class Supervisor:
    """The one in charge."""

    def __init__(self, paths: LabPaths, programs: dict[str, warm.Program]) -> None:
        self._paths = paths
        self._programs = programs
        self._children: dict[str, Child] = {}
        self._by_descriptor: dict[int, str] = {}
        self._poller = select.poll()
        self._wakeup, notify = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(notify, False)
        signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, lambda *_: None)
        self._poller.register(self._wakeup, select.POLLIN)

    def run(self) -> None:
        """Supervise until the lab is being taken down."""
        while not self._paths.stopping.exists():
            try:
                plan: dict[str, list[str]] = json.loads(self._paths.plan.read_text())
            except FileNotFoundError:
                return
            pause = min((self._tend(name, argv) for name, argv in self._with_standby(plan)), default=LOOK_AGAIN_S)
            for descriptor, _ in self._poller.poll(pause * 1000):
                if descriptor == self._wakeup:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wakeup, 4096)
                else:
                    self._ended(self._by_descriptor.pop(descriptor), descriptor)

    def _with_standby(self, plan: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
        return [*plan.items(), (STANDBY, command(self._paths.lab))]

    def _tend(self, name: str, argv: list[str]) -> float:
        """Start or adopt a process that should run; returns how many seconds until it wants to be looked at again."""
        child = self._children.setdefault(name, Child())
        if child.descriptor is not None or (self._paths.held / name).exists():
            return LOOK_AGAIN_S
        left = child.not_before - time.monotonic()
        if left > 0:
            return min(left, LOOK_AGAIN_S)
        record = read_record(self._paths.processes / f"{name}.json")
        descriptor = open_process(record) if record else None
        if record is not None and descriptor is not None:
            say(f"adopted {name} ({record.pid})")
            child.pid = record.pid
        else:
            # Whoever waits for the lock says so itself; until then the record is that of a beginner.
            recorded = STARTING if name == STANDBY else name
            program = self._programs.get(warm.module_of(argv))
            child.pid = spawn(self._paths, recorded, argv, record.restarts + 1 if record else 0, program)
            descriptor = pidfd(child.pid)
            say(f"started {name} ({child.pid})")
        child.started = time.monotonic()
        if descriptor is None:
            self._ended(name, None)
            return 0.0
        child.descriptor = descriptor
        self._by_descriptor[descriptor] = name
        self._poller.register(descriptor, select.POLLIN)
        return LOOK_AGAIN_S

    def _ended(self, name: str, descriptor: int | None) -> None:
        child = self._children[name]
        if descriptor is not None:
            self._poller.unregister(descriptor)
            os.close(descriptor)
        child.descriptor = None
        try:
            _, status = os.waitpid(child.pid, os.WNOHANG)
            how = f"status {os.waitstatus_to_exitcode(status)}"
        except ChildProcessError:
            how = "adopted, status unknown"
        now = time.monotonic()
        if now - child.started >= SETTLED_S:
            child.pause = 0.0
        child.not_before = now + child.pause
        say(f"{name} ({child.pid}) ended ({how}); next start in {child.pause:g} s")
        child.pause = min(max(child.pause * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)


def main() -> int:
    """Wait for the lock, then supervise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", required=True)
    paths = LabPaths(parser.parse_args().lab)
    try:
        slot = lock(paths.root / "standby.lock", wait=False)
        if slot is None or paths.stopping.exists():
            return 0
        record_self(paths, STANDBY)
        (paths.processes / f"{STARTING}.json").unlink(missing_ok=True)
        lock(paths.root / "supervisor.lock", wait=True)
        record_self(paths, ACTIVE)
        (paths.processes / f"{STANDBY}.json").unlink(missing_ok=True)
        os.close(slot)
    except FileNotFoundError:
        # The lab was removed under our feet.
        return 0
    say("in charge")
    programs = warm.import_programs() if _begins(paths) else {}
    # Whoever began us may still be writing the plan; when it has ended without one there is nothing to do.
    os.read(0, 1)
    try:
        Supervisor(paths, programs).run()
    except warm.Born as birth:
        program = birth.program
    else:
        return 0
    return program() or 0


def _begins(paths: LabPaths) -> bool:
    """Whether there is a lab to start: nothing runs that could be adopted, and what will is worth being imported."""
    records = (read_record(file) for file in paths.processes.glob("*.json"))
    if any(record and record.pid != os.getpid() and is_alive(record) for record in records):
        return False
    try:
        plan: dict[str, list[str]] = json.loads(paths.plan.read_text())
    except FileNotFoundError:
        return True
    return any(warm.module_of(argv) in warm.PROGRAMS for argv in plan.values())


if __name__ == "__main__":
    sys.exit(main())
