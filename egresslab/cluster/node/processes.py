"""Processes that may outlive us: known by PID and start time, waited for by pidfd, never mistaken for another.

Whoever starts one writes its identity down; the next kubelet opens it again from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from egresslab.cluster.node.pidfd import pidfd


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of this boot: `start_time` in clock ticks after boot (proc(5), stat field 22)."""

    pid: int
    start_time: int


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (state) on, or None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat[stat.rindex(")") + 2 :].split()


def identify(pid: int) -> Identity | None:
    """The identity of a living process (a zombie is dead)."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else Identity(pid, int(fields[19]))


def is_alive(identity: Identity) -> bool:
    """Whether that very process runs."""
    return identify(identity.pid) == identity


def open_process(identity: Identity) -> int | None:
    """A pidfd, or None when the process is gone; the caller closes it."""
    descriptor = pidfd(identity.pid)
    if descriptor is None:
        return None
    if not is_alive(identity):
        os.close(descriptor)
        return None
    return descriptor


def all_pids() -> list[int]:
    """Every process there is."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def children(pid: int) -> list[Identity]:
    """Children of a process, by a walk over /proc: not every kernel has /proc/PID/task/TID/children."""
    found = []
    for number in all_pids():
        if (fields := _stat(number)) and fields[0] not in "ZX" and int(fields[1]) == pid:
            found.append(Identity(number, int(fields[19])))
    return sorted(found, key=lambda identity: (identity.start_time, identity.pid))


def adopted(pid: int, session: int) -> Identity | None:
    """Our own child with that PID, living or not yet reaped, if it is of a session; None for any other process."""
    fields = _stat(pid)
    if fields is None or int(fields[1]) != os.getpid() or int(fields[3]) != session:
        return None
    return Identity(pid, int(fields[19]))


def send_signal(identity: Identity, number: int) -> None:
    """Signal that very process; one that is gone is let be."""
    descriptor = open_process(identity)
    if descriptor is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
        os.close(descriptor)


async def readable(descriptor: int) -> None:
    """Wait until a descriptor is readable or closed by its peer."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def wait_gone(identity: Identity) -> None:
    """Wait until the process has ended, and reap it if it is a child of ours."""
    descriptor = pidfd(identity.pid)
    if descriptor is None:
        return
    try:
        if is_alive(identity):
            await readable(descriptor)
        reap(identity.pid)
    finally:
        os.close(descriptor)


_claimed: dict[int, int | None] = {}
"""Children whose exit code somebody is going to ask for, and the code of those that have been reaped already."""


def claim(pid: int) -> None:
    """Keep the exit code of a child for `reap`, which has to be called."""
    _claimed[pid] = None


def reap(pid: int) -> int | None:
    """Exit code of an ended child (128 + N after signal N), or None when it is no child of ours."""
    code = _claimed.pop(pid, None)
    return _wait(pid)[1] if code is None else code


def reap_children() -> None:
    """Reap every child that has ended: a subreaper is given orphans that it has never heard of."""
    while True:
        pid, code = _wait(-1)
        if code is None:
            return
        if pid in _claimed:
            _claimed[pid] = code


def _wait(which: int) -> tuple[int, int | None]:
    try:
        pid, status = os.waitpid(which, os.WNOHANG)
    except ChildProcessError:
        return 0, None
    if not pid:
        return 0, None
    code = os.waitstatus_to_exitcode(status)
    return pid, code if code >= 0 else 128 - code


def kill_all(identities: Iterable[Identity], deadline_s: float) -> bool:
    """SIGKILL and wait, without an event loop; False when some are still there after `deadline_s`."""
    end = monotonic() + deadline_s
    poller = select.poll()
    waiting: set[int] = set()
    try:
        for identity in identities:
            descriptor = open_process(identity)
            if descriptor is None:
                continue
            waiting.add(descriptor)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poller.register(descriptor, select.POLLIN)
        left = len(waiting)
        while left:
            gone = poller.poll(max(0.0, end - monotonic()) * 1000)
            if not gone:
                return False
            for descriptor, _ in gone:
                poller.unregister(descriptor)
            left -= len(gone)
        return True
    finally:
        for descriptor in waiting:
            os.close(descriptor)
