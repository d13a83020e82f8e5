"""One at a time: locks on directories that may be removed while somebody waits for them (flock(2)).

The directory itself is locked: no lock file is left behind, and the kernel releases it whatever happens to its holder.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from egresslab.errors import EnvironmentFailure

PAUSE_S = 0.02


class Busy(EnvironmentFailure):
    """What stands in the way now, such as somebody who holds a lock, may be gone later."""


@contextmanager
def locked(directory: Path, deadline_s: float, waiting_for: str, *, make: bool = True) -> Iterator[int | None]:
    """Hold the exclusive lock of a directory; gives its descriptor, for children that must hold it too.

    Made when missing, or with `make=False` nothing is locked and None is given. Raises `Busy` when
    somebody else holds it for longer than `deadline_s`.
    """
    descriptor = _acquire(directory, time.monotonic() + deadline_s, waiting_for, make)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _acquire(directory: Path, deadline: float, waiting_for: str, make: bool) -> int | None:
    while True:
        try:
            if make:
                directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if make:
                continue
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink > 0 and _is_at(descriptor, directory):
                return descriptor
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise Busy(
                    f"waited in vain for {waiting_for}",
                    object=str(directory),
                    fix="let the other `egresslab` command finish, or stop it, and try again",
                ) from error
            time.sleep(PAUSE_S)
        # Either taken, or removed (and perhaps made anew) between opening and locking.
        os.close(descriptor)


def _is_at(descriptor: int, directory: Path) -> bool:
    try:
        there = directory.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)
