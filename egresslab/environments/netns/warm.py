"""Forks a lab's own processes from a supervisor that has imported what they need: they begin in milliseconds, and share
that memory until they write to it.

It saves time and memory and nothing depends on it: whatever cannot be forked warm is executed as any program is. What
is forked is like what would have been executed: same command line to be seen, same log, nothing open that it did not
open itself.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import setproctitle

PROGRAMS = {
    "egresslab.cluster.controlplane": "egresslab.cluster.controlplane",
    "egresslab.cluster.node": "egresslab.cluster.node.__main__",
    "egresslab.cluster.outside": "egresslab.cluster.outside.__main__",
    "egresslab.environments.netns.faultkeeper": "egresslab.environments.netns.faultkeeper",
}
"""What follows `python -m`, and the module whose `main` that is."""
LATER = ("egresslab.cluster.controllers", "egresslab.cluster.outside.firewall")
"""What they import themselves once they run."""

Program = Callable[[], int | None]
"""Its `main`; what it returns is its exit status."""


class Born(BaseException):
    """Raised in a process that was just forked, so that it leaves the supervisor's stack: become `program` now."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program


def import_programs() -> dict[str, Program]:
    """Import everything that the programs need; empty when a fork would not be safe afterwards."""
    # What is collected while importing leaves holes in pages, which would be filled, and copied, in every child.
    gc.disable()
    programs: dict[str, Program] = {}
    for name, module in PROGRAMS.items():
        programs[name] = importlib.import_module(module).main
    for module in LATER:
        importlib.import_module(module)
    importlib.import_module("egresslab.cluster.apiserver.types").keep()
    gc.collect()
    # The collector writes to every object that it looks at.
    gc.freeze()
    return programs if threading.active_count() == 1 else {}


def module_of(argv: Sequence[str]) -> str:
    """What `python -m` is to run by a command line of the plan; empty for any other program."""
    return argv[2] if tuple(argv[:2]) == (sys.executable, "-m") and len(argv) > 2 else ""


def settle(argv: Sequence[str]) -> None:
    """Make this process, which was just forked, one like any that was executed with `argv`."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = [argv[2], *argv[3:]]
    # In one piece: the memory that the kernel shows has room for no more than one word that is longer than before.
    setproctitle.setproctitle(" ".join(argv))
    gc.enable()
