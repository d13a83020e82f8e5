"""One chapter's checks as they run: what is shown, what is remembered, when it raises."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from egresslab.errors import LabError
from egresslab.lab.checks import catalogue, engine, view
from egresslab.lab.checks.model import Bench, Outcome, Verdict
from egresslab.lab.display import Table, show
from egresslab.lab.progress import Progress


class Mode(StrEnum):
    """`learn`: a check that does not pass teaches, and *Run All* goes on. `solve`: it raises, for CI."""

    LEARN = "learn"
    SOLVE = "solve"


class Grader:
    """Runs checks and gives hints; `progress` is None where nobody learns."""

    def __init__(self, bench: Bench, chapter: str, mode: Mode, progress: Progress | None) -> None:
        self.mode = mode
        self._bench = bench
        self._chapter = chapter
        self._progress = progress
        self._verdicts: list[Verdict] = []
        self._hints: dict[str, int] = {}

    def check(self, id: str, /, **subject: Any) -> Verdict:
        """Run a check and show its verdict.

        Raises `LabError` for an unknown id, and in mode `solve` for anything but a pass or "not applicable".
        """
        verdict = engine.run(catalogue.find(id), self._bench, subject)
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
        check = catalogue.find(id)
        step = min(self._hints.get(id, 0) + 1, len(check.hints))
        self._hints[id] = step
        show(view.hint_bundle(check, step))
        if self._progress is not None:
            self._progress.record("hint", self._chapter, check=id, step=step)

    def report(self) -> Table:
        """All verdicts so far."""
        return view.summary(self._verdicts)
