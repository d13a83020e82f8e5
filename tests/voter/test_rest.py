"""A voter with nothing to vote on rests, and is at work at once when its agent says so or when it is to end. Between
two looks of its own there is an hour here: what follows is brought about by events."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from egresslab.voter.files import Peer, Voting, read_report, write
from egresslab.voter.sockets import nudge

NODE, ADDRESS = "a", IPv4Address("127.0.78.1")
PATIENCE_S = 20.0
VOTING = Voting(NODE, (Peer(NODE, ADDRESS),), (NODE,), 1)
HOUR_NS = 3600 * 10**9
PROGRAM = f"""
from egresslab.voter import __main__, ballot, process
ballot.RESTING_VIEW_NS = process.RESTING_LOOK_NS = {HOUR_NS}
__main__.main()
"""


def reached(what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.01)


@pytest.fixture
def voter(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that rests, counting grants itself, on a loopback address of its own."""
    write(tmp_path / "voting.json", VOTING)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, "--run-dir", str(tmp_path), "--announcer"])
    try:
        reached("the voter", (tmp_path / "voter-ready").exists)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_voter_at_rest_follows_its_agent_at_once(tmp_path: Path, voter: subprocess.Popen[bytes]) -> None:
    for generation in (2, 3):
        write(tmp_path / "voting.json", replace(VOTING, generation=generation))
        nudge(ADDRESS, 9887)
        reached("a report", lambda generation=generation: _generation(tmp_path) == generation)  # type: ignore[misc]


def test_a_voter_at_rest_ends_at_once(voter: subprocess.Popen[bytes]) -> None:
    voter.terminate()
    assert voter.wait(PATIENCE_S) == 0


def _generation(directory: Path) -> int:
    report = read_report(directory / "voter.json")
    return report.generation if report is not None else 0
