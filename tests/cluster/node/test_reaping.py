"""Whoever is given orphans reaps them, and keeps for those who ask the exit codes of their own children.

Each test is a process of its own, which reaps everything: it must not be the one that the tests run in.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
from collections.abc import Callable

import pytest

from egresslab.cluster.node.kernel import become_subreaper
from egresslab.cluster.node.processes import claim, reap, reap_children

DEADLINE_S = 30.0
ORPHANS = 3


def apart(check: Callable[[], None]) -> None:
    """Run it in a process without other children."""
    process = multiprocessing.get_context("fork").Process(target=check)
    process.start()
    process.join(DEADLINE_S)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail(f"not within {DEADLINE_S:g} s")
    assert process.exitcode == 0, "see its traceback"


def child(then: Callable[[], int]) -> int:
    """Fork; the child exits with what `then` answers."""
    pid = os.fork()
    if not pid:
        os._exit(then())
    return pid


def killed() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def ended(pid: int) -> int:
    """Wait until it has ended, and leave it a zombie."""
    descriptor = os.pidfd_open(pid)
    try:
        assert select.select([descriptor], [], [], DEADLINE_S)[0], "a child has not ended"
    finally:
        os.close(descriptor)
    return pid


def childless() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_orphans_that_a_subreaper_is_given_are_reaped() -> None:
    def check() -> None:
        become_subreaper()
        told, tell = os.pipe()

        def leave_orphans() -> int:
            for _ in range(ORPHANS):
                os.write(tell, child(lambda: 0).to_bytes(4))
            return 0

        ended(child(leave_orphans))
        orphans = [int.from_bytes(os.read(told, 4)) for _ in range(ORPHANS)]
        # Zombies by now, given to us as their parent has ended.
        for orphan in orphans:
            ended(orphan)
        reap_children()
        assert childless()
        assert [reap(orphan) for orphan in orphans] == [None] * ORPHANS

    apart(check)


def test_one_that_has_not_ended_is_let_be() -> None:
    def check() -> None:
        go, done = os.pipe()

        def waiting() -> int:
            os.close(done)
            os.read(go, 1)
            return 4

        pid = child(waiting)
        claim(pid)
        ended(child(lambda: 0))
        reap_children()
        assert not childless()
        os.close(done)
        ended(pid)
        reap_children()
        assert childless()
        assert reap(pid) == 4

    apart(check)


@pytest.mark.parametrize(("then", "code"), [(lambda: 0, 0), (lambda: 7, 7), (killed, 128 + signal.SIGKILL)])
def test_the_exit_code_of_a_claimed_child_is_kept_until_it_is_asked_for(then: Callable[[], int], code: int) -> None:
    def check() -> None:
        reaped, unclaimed = child(then), child(then)
        claim(reaped)
        ended(reaped)
        ended(unclaimed)
        reap_children()
        own = child(then)
        claim(own)
        ended(own)
        assert [reap(reaped), reap(own), reap(unclaimed)] == [code, code, None]
        assert [reap(reaped), reap(own)] == [None, None], "once"
        assert childless()

    apart(check)


def test_no_child_of_ours_has_no_exit_code() -> None:
    def check() -> None:
        assert reap(os.getppid()) is None
        assert reap(1) is None
        reap_children()

    apart(check)
