"""A check that cannot fail proves nothing: unsolved exercises, policies that are not there, things left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from nbformat import NotebookNode

from egresslab.lab import chapters
from egresslab.lab.runner.judge import Result
from tests.labs.conftest import RunChapters

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOME = chapters.home()
Spoil = Callable[[str, Callable[[NotebookNode], None]], Path]


def cell(notebook: NotebookNode, id: str) -> NotebookNode:
    [found] = [cell for cell in notebook.cells if cell.id == id]
    return found


@pytest.mark.timeout(240)
async def test_an_unsolved_exercise_does_not_pass(run_chapters: RunChapters) -> None:
    """In mode `learn` every cell runs to the end, and only what hangs on the exercises is not passed."""
    first, second = await run_chapters(sorted(HOME.glob("0[12]*.ipynb")), mode="learn")
    assert [check["outcome"] for check in first.checks] == ["pass", "pass", "pass", "fail", "fail"]
    assert {check["id"] for check in second.checks if check["outcome"] != "pass"} == {"source-is-address"}
    assert (first.leaked, second.leaked) == ((), ())


@pytest.mark.timeout(120)
async def test_without_the_policy_the_chapter_fails(run_chapters: RunChapters, spoilt: Spoil) -> None:
    def forget(notebook: NotebookNode) -> None:
        cell(notebook, "policy").source = "policy = {}"

    [run] = await run_chapters([spoilt("02-the-first-policy", forget)])
    assert run.result is Result.FAILED
    assert run.checks[-1]["outcome"] == "not attempted"
    assert run.fault is not None
    assert run.fault.cell == "check-entries"


@pytest.mark.timeout(120)
async def test_a_policy_that_selects_nobody_fails_by_its_packets(run_chapters: RunChapters, spoilt: Spoil) -> None:
    def miss(notebook: NotebookNode) -> None:
        policy = cell(notebook, "policy")
        policy.source = policy.source.replace("app: client", "app: clinet")
        for id in ("list-one", "check-entries"):
            cell(notebook, id).source = "0"
            cell(notebook, id).metadata.tags = []

    [run] = await run_chapters([spoilt("02-the-first-policy", miss)])
    assert run.result is Result.FAILED
    assert (run.checks[-1]["id"], run.checks[-1]["outcome"]) == ("source-is-egress-ip", "fail")
    assert "192.168.60.11" in run.checks[-1]["observed"]


@pytest.mark.timeout(120)
async def test_what_is_left_behind_is_reported_and_removed(run_chapters: RunChapters, spoilt: Spoil) -> None:
    def litter(notebook: NotebookNode) -> None:
        del notebook.cells[4:]
        boot = cell(notebook, "boot")
        boot.source += '\nlab.label_node("lab-worker", "left", "here")\nimport os\nos._exit(0)'

    path = spoilt("02-the-first-policy", litter)
    [run] = await run_chapters([path])
    assert run.result is Result.DIED
    assert "label left=here of node lab-worker" in run.leaked
    assert any(name.startswith("Namespace the-first-policy-") for name in run.leaked)
    [again] = await run_chapters([HOME / "01-the-problem.ipynb"])
    assert (again.result, again.reason) == (Result.PASSED, "")


@pytest.mark.timeout(120)
async def test_leaving_something_behind_turns_green_into_red(run_chapters: RunChapters, spoilt: Spoil) -> None:
    def forget(notebook: NotebookNode) -> None:
        del notebook.cells[4:]
        boot = cell(notebook, "boot")
        boot.source += '\nlab.label_node("lab-worker", "left", "here")\nimport atexit\natexit.unregister(lab.close)'

    [run] = await run_chapters([spoilt("02-the-first-policy", forget)])
    assert (run.result, "label left=here of node lab-worker" in run.leaked) == (Result.LEAKED, True)
