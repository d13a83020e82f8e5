"""One chapter's checks as they run: what is shown, what is remembered, when it raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import Any

from egresslab.errors import LabError
from egresslab.lab.checks import catalogue, engine, view
from egresslab.lab.checks.model import Bench, Check, Outcome, Verdict
from egresslab.lab.display import Table, show
from egresslab.lab.progress import Progress


class Mode(StrEnum):
    """`learn`: a check that does not pass teaches, and *Run All* goes on. `solve`: it raises, for CI."""

    LEARN = "learn"
    SOLVE = "solve"


UNSOLVED_S = 1.5
"""How long a check is asked before its exercise is solved, where it must not pass."""
RED = (Outcome.FAIL, Outcome.NOT_ATTEMPTED)


class Grader:
    """Runs checks and gives hints; `progress` is None where nobody learns. Checks that are to pass are given their time
    as many times over as `patience` says."""

    def __init__(
        self, bench: Bench, chapter: str, mode: Mode, progress: Progress | None, patience: float = 1.0
    ) -> None:
        self._patience = patience
        self.mode = mode
        self._bench = bench
        self._chapter = chapter
        self._progress = progress
        self._verdicts: list[Verdict] = []
        self._hints: dict[str, int] = {}
        self._unsolved: list[Verdict] | None = None

    def check(self, id: str, /, **subject: Any) -> Verdict:
        """Run a check and show its verdict.

        Raises `LabError` for an unknown id, and in mode `solve` for anything but a pass or "not applicable".
        """
        check = catalogue.find(id, self._chapter)
        if self._unsolved is not None:
            return self._check_unsolved(check, subject, self._unsolved)
        verdict = engine.run(check, self._bench, subject, patience=self._patience)
        self._verdicts.append(verdict)
        show(view.bundle(verdict))
        if self._progress is not None:
            self._progress.record("check", self._chapter, check=id, outcome=verdict.outcome.value)
        if self.mode is Mode.SOLVE and verdict.outcome not in (Outcome.PASS, Outcome.NOT_APPLICABLE):
            raise LabError(
                f"check {verdict.outcome.value}: expected {verdict.expected}; observed {verdict.observed}",
                object=f"check {id}",
            )
        return verdict

    def hint(self, id: str) -> None:
        """Show the next hint, the last one again and again; `LabError` for an unknown id."""
        check = catalogue.find(id, self._chapter)
        step = min(self._hints.get(id, 0) + 1, len(check.hints))
        self._hints[id] = step
        show(view.hint_bundle(check, step))
        if self._progress is not None:
            self._progress.record("hint", self._chapter, check=id, step=step)

    @contextmanager
    def unsolved(self, exercise: str) -> Iterator[None]:
        """Inside, checks are asked for a moment only, and nothing raises; afterwards the exercise's check must be red.

        Raises `LabError` when the check of that name passed, came to grief, or was not asked.
        """
        verdicts: list[Verdict] = []
        self._unsolved = verdicts
        try:
            yield
        finally:
            self._unsolved = None
        seen = [verdict for verdict in verdicts if verdict.id == exercise]
        if not seen:
            raise LabError("is not checked by the cell of its name", object=f"exercise {exercise}")
        if all(verdict.outcome not in RED for verdict in seen):
            raise LabError(
                f"its check comes out as {seen[0].outcome.value} before it is solved, so it proves nothing",
                object=f"exercise {exercise}",
                value=seen[0].observed,
            )

    def _check_unsolved(self, check: Check, subject: dict[str, Any], verdicts: list[Verdict]) -> Verdict:
        hurried = replace(check, within_s=min(check.within_s, UNSOLVED_S))
        verdicts.append(engine.run(hurried, self._bench, subject))
        show(view.unsolved_bundle(verdicts[-1]))
        return verdicts[-1]

    def report(self) -> Table:
        """All verdicts so far."""
        return view.summary(self._verdicts)
