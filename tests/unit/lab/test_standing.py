"""Where learners stand: one by chapter, many by check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egresslab.cli.labs import app
from egresslab.lab import chapters, standing
from egresslab.lab.progress import STATE_VARIABLE, Progress
from egresslab.lab.standing import Contents

CHAPTER = Contents("02-x", "X", ("source-is-node", "second-policy"), ("second-policy",))


def learner(directory: Path, name: str, *events: tuple[str, str, str]) -> Progress:
    """A progress file with (event, check, outcome) of chapter 02-x."""
    progress = Progress(directory / f"{name}.jsonl")
    for event, check, outcome in events:
        progress.record(event, "02-x", check=check, **({"outcome": outcome} if outcome else {}))
    return progress


def test_what_a_chapter_has_is_read_from_its_notebook() -> None:
    found = standing.contents(chapters.home() / "02-the-first-policy.ipynb")
    assert found.exercises == ("second-policy",)
    assert {"source-is-node", "second-policy", "no-entries"} <= set(found.checks)


def test_a_chapter_is_done_when_every_check_has_passed_once(tmp_path: Path) -> None:
    passed = ("check", "source-is-node", "pass"), ("check", "source-is-node", "fail")
    [half] = standing.standings(learner(tmp_path, "a", *passed), [CHAPTER])
    assert (half.passed, half.solved, half.done) == (1, 0, False)
    events = (*passed, ("hint", "second-policy", ""), ("solution", "second-policy", ""))
    [whole] = standing.standings(learner(tmp_path, "b", *events, ("check", "second-policy", "pass")), [CHAPTER])
    assert (whole.passed, whole.solved, whole.hints, whole.shown, whole.done) == (2, 1, 1, 1, True)


def test_a_chapter_that_was_run_for_the_learner_is_neither_done_nor_open(tmp_path: Path) -> None:
    events = ((standing.REPLAYED, check, "") for check in CHAPTER.checks)
    [replayed] = found = standing.standings(learner(tmp_path, "a", *events), [CHAPTER])
    assert (replayed.done, replayed.replayed, replayed.shown) == (False, True, 1)
    assert standing.table(found).rows[0][0] == "→ run for you"


def test_what_was_never_begun_is_open(tmp_path: Path) -> None:
    [row] = standing.table(standing.standings(Progress(tmp_path / "none.jsonl"), [CHAPTER])).rows
    assert row == ("– open", "02-x", "0 of 2", "0 of 1", "0", "0", "")


def test_the_hardest_check_comes_first_and_not_attempted_is_no_failure(tmp_path: Path) -> None:
    learners = [
        learner(tmp_path, "a", ("check", "easy", "pass"), ("check", "hard", "fail"), ("check", "hard", "pass")),
        learner(
            tmp_path, "b", ("check", "easy", "not attempted"), ("check", "easy", "pass"), ("check", "hard", "fail")
        ),
        learner(tmp_path, "c", ("hint", "hard", ""), ("check", "hard", "pass"), ("check", "unseen", "not attempted")),
    ]
    hard, easy = standing.difficulties(learners)
    assert (hard.check, hard.learners, hard.passed, hard.at_once, hard.failures, hard.hints) == ("hard", 3, 2, 1, 2, 1)
    assert (easy.check, easy.learners, easy.at_once, easy.failed_first) == ("easy", 2, 2, 0.0)
    assert round(hard.failed_first, 2) == 0.67


def test_the_command_reads_folders_of_files_and_prints_data(tmp_path: Path) -> None:
    for name in ("ada", "bob"):
        learner(tmp_path / name, "progress", ("check", "hard", "fail"))
    result = CliRunner().invoke(app, ["progress", str(tmp_path), "-o", "json"])
    found = json.loads(result.stdout)
    assert (found["learners"], found["checks"][0]["check"], found["checks"][0]["failed_first"]) == (2, "hard", 1.0)


def test_ones_own_progress_survives_and_counts_chapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    Progress.default().record("check", "01-the-problem", check="source-is-node", outcome="pass")
    result = CliRunner().invoke(app, ["progress", "-o", "json"])
    first = next(row for row in json.loads(result.stdout)["chapters"] if row["chapter"] == "01-the-problem")
    assert (first["passed"], first["done"]) == (1, False)
