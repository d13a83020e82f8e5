"""A hold on a process that cannot come to mean another. Imported by the supervisor: nothing heavy is imported here."""

from __future__ import annotations

import errno
import os


def pidfd(pid: int) -> int | None:
    """A pidfd, or None where there is no such process; the caller closes it.

    Of a process that was reaped and whose PID still names a session, older kernels (6.1) say EINVAL (pidfd_open(2)).
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL):
            raise
        return None
