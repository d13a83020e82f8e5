"""`egresslab labs` on the command line, as far as it needs no cluster."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from egresslab.cli.labs import app

PARAMETERS = 'mode: str = "learn"  # how\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with one notebook that runs elsewhere only and keeps no convention."""
    notebook = new_notebook(cells=[new_code_cell(PARAMETERS, id="params", metadata={"tags": ["parameters"]})])
    notebook.metadata.lab = {"title": "On the moon", "minutes": 3, "environments": ["moon"]}
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "07-moon.ipynb")
    return tmp_path


def labs(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_list_names_title_and_environments(directory: Path) -> None:
    code, printed, _ = labs("list", "--directory", str(directory))
    assert code == 0
    assert all(part in printed for part in ("07-moon", "On the moon", "moon"))


def test_lint_exits_1_and_names_each_breach(directory: Path) -> None:
    code, printed, errors = labs("lint", "--directory", str(directory))
    assert code == 1
    assert "07-moon.ipynb:params: parameters: has no parameter environment" in errors
    assert "1 chapters" in printed


def test_a_run_in_which_nothing_ran_exits_2_and_says_why(directory: Path) -> None:
    code, printed, _ = labs("run", "--directory", str(directory), "--out", str(directory / "out"))
    assert code == 2
    assert "runs on moon, not on netns" in printed
    content = json.loads((directory / "out" / "results.json").read_text())
    assert [chapter["result"] for chapter in content["chapters"]] == ["skipped"]
    assert (directory / "out" / "index.html").exists()
    assert (directory / "out" / "junit.xml").exists()


def test_an_unknown_parameter_is_refused_before_anything_starts(directory: Path) -> None:
    code, _, errors = labs("run", "--directory", str(directory), "--out", str(directory / "out"), "-p", "mod=solve")
    assert code == 2
    assert "no such parameter" in errors
    assert "did you mean 'mode'" in errors


def test_an_unknown_chapter_is_refused(directory: Path) -> None:
    code, _, errors = labs("run", "99", "--directory", str(directory), "--out", str(directory / "out"))
    assert code == 2
    assert "there is no such chapter" in errors


def test_a_parameter_without_a_value_is_a_usage_error(directory: Path) -> None:
    code, _, errors = labs("run", "--directory", str(directory), "-p", "mode")
    assert code == 2
    assert "NAME=VALUE" in errors
