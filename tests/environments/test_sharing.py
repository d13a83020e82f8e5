"""Labs side by side, and commands at the same lab one after the other."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from egresslab.environments.netns import host, paths
from egresslab.environments.netns.labrecord import LabRecord, Stage, all_labs, write_lab
from egresslab.environments.netns.locks import locked
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.records import boot_id
from egresslab.errors import EnvironmentFailure


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own."""
    for module in (paths, host, "egresslab.environments.netns.labrecord"):
        monkeypatch.setattr(f"{module}.STATE" if isinstance(module, str) else f"{module.__name__}.STATE", tmp_path)
    return tmp_path


def lab(name: str, nodes: tuple[str, ...] = ("n",), port: int = 6443) -> LabRecord:
    """A recorded lab."""
    LabPaths(name).root.mkdir(parents=True, exist_ok=True)
    topology = {"nodes": [{"name": node} for node in nodes]}
    record = LabRecord(name, boot_id(), Stage.BUILT, 0.0, port, True, topology)
    write_lab(record)
    return record


def test_record_is_read_back_as_written(state: Path) -> None:
    made = [lab("a"), lab("b")]
    assert all_labs() == made


def test_namespace_names_that_meet_are_refused(state: Path) -> None:
    lab("a-b", ("c",))
    with pytest.raises(EnvironmentFailure, match="egresslab-a-b-c is taken by lab a-b"):
        host.check_names(lab("a", ("b-c",)))


def test_ports_of_other_labs_are_not_taken_even_while_they_do_not_listen(state: Path) -> None:
    first = host.free_port("a")
    lab("a", port=first)
    assert host.free_port("a") == first
    second = host.free_port("b")
    assert second != first
    with socket.socket() as busy:
        # Connections of a server that was there before may linger, which does not make the port taken.
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        busy.bind(("127.0.0.1", second))
        busy.listen()
        assert host.free_port("b") not in (first, second)


def test_second_command_waits_and_then_says_for_what(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lab", 1, "nobody"),
        pytest.raises(EnvironmentFailure, match="waited in vain for another command"),
        locked(tmp_path / "lab", 0.05, "another command"),
    ):
        pass


def test_lock_is_not_had_on_a_directory_that_was_removed_meanwhile(tmp_path: Path) -> None:
    directory = tmp_path / "lab"
    entered = threading.Event()
    found: list[int] = []

    def second() -> None:
        entered.set()
        with locked(directory, 10, "the first"):
            found.append(directory.stat().st_ino)

    with locked(directory, 1, "nobody"):
        waiter = threading.Thread(target=second)
        waiter.start()
        entered.wait()
        time.sleep(0.05)
        directory.rmdir()
    waiter.join(10)
    assert found == [directory.stat().st_ino]


def test_lock_of_what_is_not_there_is_none(tmp_path: Path) -> None:
    with locked(tmp_path / "none", 1, "nobody", make=False) as lock:
        assert lock is None
    assert not (tmp_path / "none").exists()
