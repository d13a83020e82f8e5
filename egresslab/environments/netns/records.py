"""Which processes a lab has: one JSON file each, and the way from a file back to a living process.

A process is known by PID, start time and boot, so that a recycled PID is never mistaken for ours, and it is always
handled through a pidfd. Imported by the supervisor: nothing heavy may be imported here.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

from egresslab.cluster.node.pidfd import pidfd
from egresslab.environments.netns.files import write_atomically

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process: `start_time` in clock ticks after boot (proc(5), stat field 22), `since` in seconds of the epoch."""

    name: str
    pid: int
    start_time: int
    boot: str
    argv: list[str]
    since: float
    restarts: int = 0


def boot_id() -> str:
    """A name for the time since the machine was started."""
    return BOOT_ID.read_text().strip()


def start_time(pid: int) -> int | None:
    """When a process was started, or None when it is dead (a zombie is dead)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def write_record(directory: Path, record: ProcessRecord) -> None:
    """Remember a process; an earlier one of the same name is forgotten."""
    write_atomically(directory / f"{record.name}.json", json.dumps(asdict(record)))


def read_record(path: Path) -> ProcessRecord | None:
    """The record in a file, or None when there is none."""
    try:
        return ProcessRecord(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def read_records(directory: Path) -> list[ProcessRecord]:
    """All records, dead processes' as well, sorted by name."""
    found = (read_record(path) for path in sorted(directory.glob("*.json")))
    return [record for record in found if record is not None]


def open_process(record: ProcessRecord) -> int | None:
    """A pidfd of the recorded process, or None when it no longer runs; the caller closes it."""
    if record.boot != boot_id():
        return None
    descriptor = pidfd(record.pid)
    if descriptor is None:
        return None
    if start_time(record.pid) != record.start_time:
        os.close(descriptor)
        return None
    return descriptor


def is_alive(record: ProcessRecord) -> bool:
    """Whether the recorded process runs."""
    descriptor = open_process(record)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def kill(descriptors: Iterable[int], deadline: float) -> bool:
    """SIGKILL to pidfds and wait until all are gone (`deadline` in monotonic seconds); closes them all.

    False when some are still there at the deadline: a process stuck in the kernel.
    """
    waiting = set(descriptors)
    poller = select.poll()
    try:
        for descriptor in waiting:
            poller.register(descriptor, select.POLLIN)
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except ProcessLookupError:
                continue
        gone: set[int] = set()
        while gone != waiting:
            left = deadline - monotonic()
            if left <= 0:
                return False
            for descriptor, _ in poller.poll(left * 1000):
                poller.unregister(descriptor)
                gone.add(descriptor)
        return True
    finally:
        for descriptor in waiting:
            os.close(descriptor)
