"""Judging an executed notebook: did every cell run, did none fail, did every check pass?

A runner's exit status is not enough: after a cell's time limit or the death of a kernel the remaining cells look
completed, and `sys.exit(0)` in a cell ends a run without an error. So the cells themselves are asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nbformat import NotebookNode

from egresslab.lab.cells import CHECK, exercises, tags
from egresslab.lab.checks.grader import Mode
from egresslab.lab.checks.model import Outcome
from egresslab.lab.checks.view import MIME, UNSOLVED_MIME
from egresslab.lab.runner.job import Ending

ANSI = re.compile(r"\x1b\[[0-9;]*m")
GOOD = (Outcome.PASS, Outcome.NOT_APPLICABLE)
SKIPPED = "Skipped"
"""Name of the exception by which a chapter says, while running, that it cannot run here."""


class Result(StrEnum):
    """How a chapter came out."""

    PASSED = "passed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    DIED = "died"
    SKIPPED = "skipped"
    LEAKED = "leaked"


@dataclass(frozen=True, slots=True)
class Fault:
    """The first cell that went wrong, its source, and what it said (without terminal colours)."""

    cell: str
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a notebook shows about its run; `checks` are the records that checks displayed, in order.

    `unsolved` are those of checks that were asked before their exercise was solved.
    """

    result: Result
    reason: str
    checks: tuple[dict[str, Any], ...]
    fault: Fault | None = None
    unsolved: tuple[dict[str, Any], ...] = ()


def judge(notebook: NotebookNode, *, exit_code: int, last_cell: str, mode: Mode = Mode.SOLVE) -> Judgement:
    """Judge an executed notebook by its cells.

    `exit_code` is the worker's (see `Ending`; negative for a signal), `last_cell` the id of the cell that it began
    last. In mode `learn` no exercise is solved, so each one's check must be red.
    """
    checks = tuple(record for cell in notebook.cells for record in records(cell))
    red = tuple(record for cell in notebook.cells for record in records(cell, UNSOLVED_MIME))
    result, reason, fault = _outcome(notebook, exit_code, last_cell, mode)
    return Judgement(result, reason, checks, fault, red)


Found = tuple[Result, str, "Fault | None"]


def _outcome(notebook: NotebookNode, exit_code: int, last_cell: str, mode: Mode) -> Found:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "skip-execution" not in tags(cell)]
    last = next((cell for cell in cells if cell.id == last_cell), None)
    if exit_code == Ending.CELL_TIMEOUT:
        return Result.TIMEOUT, f"cell {last_cell!r} took too long", _fault(last, "ended by the cell's clock")
    wrong = _wrong_checks(cells) if mode is Mode.SOLVE else _wrong_checks_unsolved(notebook)
    for cell in cells:
        if error := _error(cell):
            return _failed(cell, error)
        if found := wrong.get(str(cell.id)):
            reason, evidence = found
            return Result.FAILED, reason, _fault(cell, evidence)
    if exit_code == Ending.KERNEL_DIED:
        return Result.DIED, f"the kernel died in cell {last_cell!r}", _fault(last, "the kernel died")
    if exit_code != Ending.COMPLETE:
        reason = f"the worker ended with {exit_code} in cell {last_cell!r}"
        return Result.DIED, reason, _fault(last, "")
    for cell in cells:
        if cell.execution_count is None and cell.source.strip():
            reason = f"the run ended before cell {cell.id!r}, without an error"
            return Result.FAILED, reason, _fault(cell, "not run")
        if "check" in tags(cell) and not records(cell):
            reason = f"cell {cell.id!r} is tagged as a check but checked nothing"
            return Result.FAILED, reason, _fault(cell, reason)
    return Result.PASSED, "", None


def _wrong_checks(cells: list[NotebookNode]) -> dict[str, tuple[str, str]]:
    """Of each cell in which a check did not pass: the reason and the evidence."""
    wrong: dict[str, tuple[str, str]] = {}
    for cell in cells:
        bad = next((record for record in records(cell) if record["outcome"] not in GOOD), None)
        if bad is not None:
            wrong[str(cell.id)] = f"check {bad['id']}: {bad['outcome']}", _evidence(bad)
    return wrong


def _wrong_checks_unsolved(notebook: NotebookNode) -> dict[str, tuple[str, str]]:
    """The same for a run in which nothing was solved: exercises' checks must be red, those before them good.

    What comes after an exercise may hang on it, so there anything goes but an error.
    """
    names = exercises(notebook)
    wrong: dict[str, tuple[str, str]] = {}
    begun = False
    for cell in notebook.cells:
        begun = begun or "exercise" in tags(cell)
        name = str(cell.id).removeprefix(CHECK)
        for record in records(cell):
            if record["id"] == name and name in names:
                bad = "passes, although it was not solved" if record["outcome"] in GOOD else ""
            else:
                bad = "did not pass" if not begun and record["outcome"] not in GOOD else ""
            if bad or record["outcome"] == Outcome.ERROR:
                wrong.setdefault(str(cell.id), (f"check {record['id']}: {bad or 'error'}", _evidence(record)))
    return wrong


def _evidence(record: dict[str, Any]) -> str:
    return f"expected: {record['expected']}\nobserved: {record['observed']}"


def records(cell: NotebookNode, mime: str = MIME) -> list[dict[str, Any]]:
    """The check records among a cell's outputs."""
    return [dict(output.data[mime]) for output in cell.get("outputs", []) if mime in output.get("data", {})]


def _error(cell: NotebookNode) -> NotebookNode | None:
    if "raises-exception" in tags(cell):
        return None
    return next((output for output in cell.outputs if output.output_type == "error"), None)


def _failed(cell: NotebookNode, error: NotebookNode) -> Found:
    if error.ename == SKIPPED:
        return Result.SKIPPED, str(error.evalue), None
    bad = next((record for record in records(cell) if record["outcome"] not in GOOD), None)
    if bad is not None:
        return Result.FAILED, f"check {bad['id']}: {bad['outcome']}", _fault(cell, _evidence(bad))
    text = ANSI.sub("", "\n".join(error.traceback) or f"{error.ename}: {error.evalue}")
    first = str(error.evalue).splitlines()[0] if error.evalue else error.ename
    return Result.FAILED, f"cell {cell.id!r}: {first}", _fault(cell, text)


def _fault(cell: NotebookNode | None, text: str) -> Fault | None:
    if cell is None:
        return None
    printed = "".join(output.text for output in cell.get("outputs", []) if output.output_type == "stream")
    return Fault(str(cell.id), str(cell.source), f"{ANSI.sub('', printed)}{text}")
