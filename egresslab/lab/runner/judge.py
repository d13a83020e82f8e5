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

from egresslab.lab.cells import tags
from egresslab.lab.checks.model import Outcome
from egresslab.lab.checks.view import MIME
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
    """What a notebook shows about its run; `checks` are the records that checks displayed, in order."""

    result: Result
    reason: str
    checks: tuple[dict[str, Any], ...]
    fault: Fault | None = None


def judge(notebook: NotebookNode, *, exit_code: int, last_cell: str) -> Judgement:
    """Judge an executed notebook by its cells.

    `exit_code` is the worker's (see `Ending`; negative for a signal), `last_cell` the id of the cell that it began
    last.
    """
    checks = tuple(record for cell in notebook.cells for record in records(cell))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "skip-execution" not in tags(cell)]
    last = next((cell for cell in cells if cell.id == last_cell), None)
    if exit_code == Ending.CELL_TIMEOUT:
        return Judgement(Result.TIMEOUT, f"cell {last_cell!r} took too long", checks, _fault(last, "time limit"))
    for cell in cells:
        bad = next((record for record in records(cell) if record["outcome"] not in GOOD), None)
        if bad is not None:
            reason = f"check {bad['id']}: {bad['outcome']}"
            evidence = f"expected: {bad['expected']}\nobserved: {bad['observed']}"
            return Judgement(Result.FAILED, reason, checks, _fault(cell, evidence))
        if error := _error(cell):
            return _failed(cell, error, checks)
    if exit_code == Ending.KERNEL_DIED:
        return Judgement(Result.DIED, f"the kernel died in cell {last_cell!r}", checks, _fault(last, "the kernel died"))
    if exit_code != Ending.COMPLETE:
        return Judgement(
            Result.DIED, f"the worker ended with {exit_code} in cell {last_cell!r}", checks, _fault(last, "")
        )
    for cell in cells:
        if cell.execution_count is None and cell.source.strip():
            reason = f"the run ended before cell {cell.id!r}, without an error"
            return Judgement(Result.FAILED, reason, checks, _fault(cell, "not run"))
        if "check" in tags(cell) and not records(cell):
            reason = f"cell {cell.id!r} is tagged as a check but checked nothing"
            return Judgement(Result.FAILED, reason, checks, _fault(cell, reason))
    return Judgement(Result.PASSED, "", checks)


def records(cell: NotebookNode) -> list[dict[str, Any]]:
    """The check records among a cell's outputs."""
    return [dict(output.data[MIME]) for output in cell.get("outputs", []) if MIME in output.get("data", {})]


def _error(cell: NotebookNode) -> NotebookNode | None:
    if "raises-exception" in tags(cell):
        return None
    return next((output for output in cell.outputs if output.output_type == "error"), None)


def _failed(cell: NotebookNode, error: NotebookNode, checks: tuple[dict[str, Any], ...]) -> Judgement:
    if error.ename == SKIPPED:
        return Judgement(Result.SKIPPED, str(error.evalue), checks)
    text = ANSI.sub("", "\n".join(error.traceback) or f"{error.ename}: {error.evalue}")
    first = str(error.evalue).splitlines()[0] if error.evalue else error.ename
    return Judgement(Result.FAILED, f"cell {cell.id!r}: {first}", checks, _fault(cell, text))


def _fault(cell: NotebookNode | None, text: str) -> Fault | None:
    return Fault(str(cell.id), str(cell.source), text) if cell is not None else None
