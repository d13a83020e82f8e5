"""Exercises: the learner's answer in one mode, the solution's in the other, and checks that are red before either."""

from __future__ import annotations

from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from egresslab.errors import LabError
from egresslab.lab.checks import catalogue, engine
from egresslab.lab.checks.grader import Grader, Mode
from egresslab.lab.checks.model import Check, Finding, Outcome
from egresslab.lab.exercises import Exercises, functions
from egresslab.lab.progress import Progress
from egresslab.lab.runner.red import with_red
from tests.unit.lab.conftest import FakeBench

SOLUTIONS = '''
"""Made up."""

from egresslab.lab import Lab

def which_gateway(lab, *, node):
    """Because it is asked for."""
    lab.append(node)
    return node

def do_it(lab):
    """It needs no answer."""
    lab.append("done")

def _part(lab):
    pass
'''


@pytest.fixture
def chapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A chapter whose notebook's folder, where its kernel runs, has a file of solutions."""
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "chapter_77.py").write_text(SOLUTIONS)
    monkeypatch.chdir(tmp_path)
    return "77-made-up"


def test_functions_are_exercises_by_their_names(chapter: str) -> None:
    assert list(functions(chapter)) == ["which-gateway", "do-it"]


def test_learning_keeps_the_attempt_and_does_nothing(chapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    lab: list[str] = []
    exercises = Exercises(chapter, Mode.LEARN, None)
    assert exercises.solve(lab, "which-gateway", "mine", {"node": "n1"}) == "mine"
    assert lab == []
    assert 'lab.solution("which-gateway")' in capsys.readouterr().out


def test_solving_runs_the_solution_and_takes_its_answer(chapter: str) -> None:
    lab: list[str] = []
    exercises = Exercises(chapter, Mode.SOLVE, None)
    assert exercises.solve(lab, "which-gateway", None, {"node": "n1"}) == "n1"
    assert exercises.solve(lab, "do-it", "mine", {}) == "mine"
    assert lab == ["n1", "done"]


@pytest.mark.parametrize("mode", Mode)
def test_what_does_not_fit_is_told_in_both_modes(chapter: str, mode: Mode) -> None:
    with pytest.raises(LabError, match=r"does not fit its cell: missing a required .*'node'"):
        Exercises(chapter, mode, None).solve([], "which-gateway", None, {})
    with pytest.raises(LabError, match=r"no solution of that name.*\n?.*one of which-gateway, do-it"):
        Exercises(chapter, mode, None).solve([], "which-gatewy", None, {})


def test_a_solution_is_shown_with_its_reason_and_recorded(
    chapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(tmp_path / "progress.jsonl")
    Exercises(chapter, Mode.LEARN, progress).solution("do-it")
    shown = capsys.readouterr().out
    assert "It needs no answer" in shown
    assert "_part" not in shown
    assert [(event["event"], event["check"]) for event in progress.events()] == [("solution", "do-it")]


def grader(bench: FakeBench, monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> Grader:
    check = Check("mine", "a claim", lambda bench: Finding(outcome, "this", "that"), ("1", "2", "3"))
    monkeypatch.setattr(catalogue, "find", lambda id, chapter="": check)
    monkeypatch.setattr(engine, "INTERVAL_S", 0.0)
    monkeypatch.setattr("egresslab.lab.checks.grader.UNSOLVED_S", 0.0)
    return Grader(bench, "77", Mode.SOLVE, None)


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.NOT_ATTEMPTED])
def test_red_before_green_does_not_raise_and_does_not_count(
    bench: FakeBench, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    tried = grader(bench, monkeypatch, outcome)
    with tried.unsolved("mine"):
        tried.check("mine")
    assert len(tried.report()) == 0


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.NOT_APPLICABLE, Outcome.ERROR])
def test_a_check_that_is_not_red_before_its_exercise_is_solved_raises(
    bench: FakeBench, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    tried = grader(bench, monkeypatch, outcome)
    with pytest.raises(LabError, match="so it proves nothing"), tried.unsolved("mine"):
        tried.check("mine")


def test_an_exercise_that_nothing_checks_raises(bench: FakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError, match="not checked"), grader(bench, monkeypatch, Outcome.FAIL).unsolved("other"):
        pass


def test_the_check_is_put_before_the_solution_and_the_notebook_stays_as_it_is() -> None:
    notebook = new_notebook(
        cells=[
            new_code_cell("stub", id="exercise-mine", metadata={"tags": ["exercise"]}),
            new_code_cell("solve", id="solve-mine", metadata={"tags": ["solution"]}),
            new_code_cell('lab.check("mine")\nlab.check("other")', id="check-mine", metadata={"tags": ["check"]}),
        ]
    )
    changed = with_red(notebook)
    assert [cell.id for cell in changed.cells] == ["exercise-mine", "unsolved-mine", "solve-mine", "check-mine"]
    assert changed.cells[1].source == 'with lab.unsolved("mine"):\n    lab.check("mine")\n    lab.check("other")'
    assert len(notebook.cells) == 3
