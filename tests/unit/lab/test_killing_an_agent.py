"""The program that a drill runs beside an agent, to kill it as a crash would."""

from __future__ import annotations

import subprocess
import sys

import pytest

from egresslab.lab.drills.breakages import KILL_AGENT

AGENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[2]]); print('it lives')"
INIT = """
import subprocess, sys
print(subprocess.run([sys.executable, "-c", sys.argv[1], "egresslab" + ".agent", sys.argv[2]]).returncode)
"""

pytestmark = pytest.mark.root


def run(*words: str) -> list[str]:
    """What is printed by a program that is the first one in a PID namespace of its own."""
    alone = ("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c")
    return subprocess.run([*alone, *words], capture_output=True, text=True, timeout=30, check=False).stdout.split()


def test_an_agent_that_is_the_first_process_of_its_container_is_killed() -> None:
    assert run(AGENT, "egresslab.agent", KILL_AGENT) == ["1"]


def test_an_agent_with_an_init_above_it_is_killed_and_the_init_is_not() -> None:
    pid, ended = run(INIT, AGENT, KILL_AGENT)
    assert int(pid) > 1 and ended == "-9"


def test_nobody_else_is() -> None:
    assert run(AGENT, "egresslab.operator", KILL_AGENT) == ["it", "lives"]
