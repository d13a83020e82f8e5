"""A check that cannot fail proves nothing: unsolved exercises, policies that are not there, things left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from nbformat import NotebookNode

from egresslab.lab import chapters
from egresslab.lab.client import Client
from egresslab.lab.runner import leaks
from egresslab.lab.runner.judge import Result
from egresslab.lab.waits import wait_for
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
    [run] = await run_chapters(sorted(HOME.glob("01*.ipynb")), mode="learn")
    assert (run.result, run.reason) == (Result.PASSED, "")
    outcomes = [(check["id"], check["outcome"]) for check in run.checks]
    assert outcomes[:3] == [("source-is-node", "pass"), ("outside-admits", "pass"), ("outside-refuses", "pass")]
    assert outcomes[3:] == [("admit-everywhere", "not attempted"), ("outside-admits", "fail")]
    assert run.leaked == ()


@pytest.mark.timeout(120)
async def test_a_check_that_passes_before_its_exercise_is_solved_is_found(
    run_chapters: RunChapters, spoilt: Spoil
) -> None:
    def give_away(notebook: NotebookNode) -> None:
        kept = ("params", "boot", "exercise-pod-of-your-own", "solve-pod-of-your-own", "check-pod-of-your-own")
        notebook.cells = [cell for cell in notebook.cells if cell.id in kept]
        cell(notebook, "exercise-pod-of-your-own").source = 'lab.run_pod("mine", node="lab-worker3")'

    [run] = await run_chapters([spoilt("00-start-here", give_away)])
    assert run.result is Result.FAILED
    assert run.fault is not None
    assert run.fault.cell == "unsolved-pod-of-your-own"
    assert "before it is solved, so it proves nothing" in run.reason


@pytest.mark.timeout(120)
async def test_a_policy_that_selects_nobody_fails_by_its_packets(run_chapters: RunChapters, spoilt: Spoil) -> None:
    def miss(notebook: NotebookNode) -> None:
        kept = ("params", "boot", "pods", "label", "policy", "check-after", "cleanup")
        notebook.cells = [cell for cell in notebook.cells if cell.id in kept]
        policy = cell(notebook, "policy")
        policy.source = policy.source.replace("app: client", "app: clinet")

    [run] = await run_chapters([spoilt("02-the-first-policy", miss)])
    assert (run.result, run.reason) == (Result.FAILED, "check source-is-egress-ip: fail")
    assert "192.168.60.11" in run.checks[-1]["observed"]
    assert run.fault is not None
    assert run.fault.cell == "check-after"
    assert run.leaked == ()


@pytest.mark.timeout(120)
async def test_what_a_dead_chapter_leaves_behind_is_reported_and_removed(
    run_chapters: RunChapters, spoilt: Spoil, client: Client
) -> None:
    def litter(notebook: NotebookNode) -> None:
        notebook.cells = [cell for cell in notebook.cells if cell.id in ("params", "boot")]
        cell(notebook, "boot").source += '\nlab.label_node("lab-worker", "left", "here")\nimport os\nos._exit(0)'

    before = leaks.snapshot(client)
    [run] = await run_chapters([spoilt("02-the-first-policy", litter)])
    assert run.result is Result.DIED
    assert "label left=here of node lab-worker" in run.leaked
    assert any(name.startswith("Namespace the-first-policy-") for name in run.leaked)
    wait_for("nothing to be left", lambda: leaks.snapshot(client).beyond(before) == (), timeout_s=20)


@pytest.mark.timeout(120)
async def test_leaving_something_behind_turns_green_into_red(run_chapters: RunChapters, spoilt: Spoil) -> None:
    def forget(notebook: NotebookNode) -> None:
        notebook.cells = [cell for cell in notebook.cells if cell.id in ("params", "boot")]
        boot = cell(notebook, "boot")
        boot.source += '\nlab.label_node("lab-worker", "left", "here")\nimport atexit\natexit.unregister(lab.close)'

    [run] = await run_chapters([spoilt("02-the-first-policy", forget)])
    assert (run.result, "label left=here of node lab-worker" in run.leaked) == (Result.LEAKED, True)
