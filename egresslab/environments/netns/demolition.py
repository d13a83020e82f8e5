"""Takes a lab down from whatever is left of it: by its record, by its process records, and by membership.

A process belongs to the lab when it is recorded or when its network namespace is one of the lab's. Every step takes
"already gone" for done; the lab's record is removed last, so that an interrupted demolition can be repeated.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from egresslab.cluster.node.pidfd import pidfd
from egresslab.environments.netns.kernel import mounts_below, unmount
from egresslab.environments.netns.labrecord import LabRecord
from egresslab.environments.netns.paths import NAMESPACES, LabPaths
from egresslab.environments.netns.records import kill, open_process, read_records, start_time
from egresslab.environments.netns.supervisor import ACTIVE, STANDBY, STARTING
from egresslab.errors import EnvironmentFailure

DEADLINE_S = 15.0


def members(namespaces: Iterable[str]) -> list[int]:
    """PIDs of the processes whose network namespace is one of those named."""
    wanted = set()
    for name in namespaces:
        try:
            there = (NAMESPACES / name).stat()
        except FileNotFoundError:
            continue
        wanted.add((there.st_dev, there.st_ino))
    found = []
    for entry in Path("/proc").iterdir() if wanted else ():
        if entry.name.isdigit():
            try:
                there = (entry / "ns" / "net").stat()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if (there.st_dev, there.st_ino) in wanted:
                found.append(int(entry.name))
    return found


def kill_members(namespaces: Iterable[str], deadline: float) -> None:
    """Kill until nobody is left in the namespaces; raises `EnvironmentFailure` at the deadline (monotonic seconds)."""
    names = list(namespaces)
    while pids := members(names):
        kill([descriptor for pid in pids if (descriptor := pidfd(pid)) is not None], deadline)
        if time.monotonic() >= deadline and (left := [pid for pid in pids if start_time(pid) is not None]):
            raise EnvironmentFailure(
                f"processes do not end: {', '.join(map(str, left))}",
                object=f"network namespaces {', '.join(names)}",
                fix="look at them with `ps -o pid,stat,wchan:32,args`, then run the command again",
            )


def kill_recorded(paths: LabPaths, deadline: float) -> None:
    """Kill the supervisors, which can no longer start anything, and then every other recorded process."""
    for wanted in ((ACTIVE, STANDBY, STARTING), None):
        while True:
            records = [r for r in read_records(paths.processes) if wanted is None or r.name in wanted]
            descriptors = [descriptor for r in records if (descriptor := open_process(r)) is not None]
            if not descriptors:
                break
            if not kill(descriptors, deadline):
                raise EnvironmentFailure(
                    "its processes do not end",
                    object=f"lab {paths.lab}",
                    fix=f"look at them with `ps`, then run `egresslab down --lab {paths.lab}` again",
                )


def remove_namespace(name: str) -> None:
    """Remove a named network namespace; the kernel frees it when nobody is left in it."""
    path = NAMESPACES / name
    unmount(path)
    path.unlink(missing_ok=True)


def demolish(paths: LabPaths, record: LabRecord | None) -> None:
    """Remove everything of a lab but its directory, which the caller has locked.

    Raises `EnvironmentFailure` for what will not go.
    """
    deadline = time.monotonic() + DEADLINE_S
    paths.stopping.touch()
    if paths.processes.is_dir():
        kill_recorded(paths, deadline)
    namespaces = [*(record.namespaces() if record else ()), *paths.pod_namespaces()]
    kill_members(namespaces, deadline)
    for name in namespaces:
        remove_namespace(name)
    # Until there is none: removing files below a mount that was overlooked would remove somebody else's.
    while points := mounts_below(paths.root):
        for point in points:
            unmount(point)
    for entry in sorted(paths.root.iterdir(), key=lambda path: path == paths.record):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
