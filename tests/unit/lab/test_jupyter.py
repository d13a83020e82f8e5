"""JupyterLab runs as whoever called, and what it is started with knows the lab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from egresslab.lab import jupyter
from egresslab.lab.progress import STATE_VARIABLE

NOBODY = 65534
BECOME = """
import json, os
from egresslab.lab import jupyter
jupyter.drop_privileges()
try:
    os.setuid(0)
except PermissionError:
    pass
print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), os.environ["USER"], "SUDO_UID" in os.environ]))
"""


@pytest.mark.root
def test_root_behind_sudo_becomes_the_caller_for_good() -> None:
    environment = {**os.environ, "SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)}
    ended = subprocess.run([sys.executable, "-c", BECOME], env=environment, capture_output=True, text=True, check=True)
    users, groups, others, name, sudo = json.loads(ended.stdout)
    assert users == [NOBODY] * 3
    assert set(groups) == {NOBODY} == set(others) | {NOBODY}
    assert (name, sudo) == ("nobody", False)


def test_root_in_its_own_right_stays_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    before = os.getresuid()
    jupyter.drop_privileges()
    assert os.getresuid() == before


def test_server_kernels_and_terminals_know_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    start = jupyter.launch("p07", Path("/run/some/kubeconfig"), tmp_path, port=8807, browser=False)
    assert start.environment["KUBECONFIG"] == "/run/some/kubeconfig"
    assert start.environment["EGRESSLAB_LAB"] == "p07"
    assert start.environment["PATH"].startswith(str(Path(sys.executable).parent))
    assert "--LabApp.default_url=/lab/tree/00-start-here.ipynb" in start.command
    assert ("--allow-root" in start.command) == (os.geteuid() == 0)
    terminal = (tmp_path / "state" / "terminal.bashrc").read_text()
    assert 'KUBECONFIG="/run/some/kubeconfig" EGRESSLAB_LAB="p07"' in terminal
    assert "kubectl completion bash" in terminal


def test_chapters_that_cannot_be_written_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, home = tmp_path / "installed", tmp_path / "home"
    (installed / "solutions").mkdir(parents=True)
    (installed / "00-start-here.ipynb").write_text("first")
    (installed / "solutions" / "chapter_00.py").write_text("")
    monkeypatch.setattr(jupyter.locations, "home", lambda: installed)
    monkeypatch.setattr(jupyter.os, "access", lambda *_: False)
    monkeypatch.setattr(jupyter.Path, "home", lambda: home)
    copy = jupyter.chapters_directory()
    (copy / "00-start-here.ipynb").write_text("with the learner's own work in it")
    (installed / "01-the-problem.ipynb").write_text("new")
    assert jupyter.chapters_directory() == copy == home / "egresslab-labs"
    assert (copy / "00-start-here.ipynb").read_text() == "with the learner's own work in it"
    assert (copy / "01-the-problem.ipynb").read_text() == "new"
    assert (copy / "solutions" / "chapter_00.py").exists()
