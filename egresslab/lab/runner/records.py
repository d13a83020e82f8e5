"""A suite's results for machines: results.json with the evidence of every check, and JUnit XML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from egresslab.lab.runner.execution import ChapterRun
from egresslab.lab.runner.judge import Result


def write_json(path: Path, runs: Sequence[ChapterRun], *, environment: str, started: datetime) -> None:
    """results.json: `{environment, started, chapters: [{id, title, result, reason, seconds, checks, …}]}`.

    `unsolved` are the checks that were asked before their exercise was solved, `cells` has each cell's time.
    """
    content = {
        "environment": environment,
        "started": started.isoformat(timespec="seconds"),
        "chapters": [_chapter(run, path.parent) for run in runs],
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _chapter(run: ChapterRun, base: Path) -> dict[str, Any]:
    fault = run.fault
    return {
        "id": run.chapter.id,
        "title": run.chapter.title,
        "result": run.result.value,
        "reason": run.reason,
        "seconds": round(run.seconds, 3),
        "up_seconds": round(run.up_seconds, 3),
        "executed": str(run.executed.relative_to(base)) if run.executed else None,
        "fault": {"cell": fault.cell, "source": fault.source, "text": fault.text} if fault else None,
        "leaked": list(run.leaked),
        "checks": list(run.checks),
        "unsolved": list(run.unsolved),
        "cells": [{"id": id, "seconds": seconds} for id, seconds in run.cells],
    }


def write_junit(path: Path, runs: Sequence[ChapterRun]) -> None:
    """JUnit XML: one suite for each chapter, one case for the run as a whole and one for each check."""
    document = JUnitXml()
    for run in runs:
        suite = TestSuite(run.chapter.id)
        whole = TestCase("the chapter runs", classname=run.chapter.id, time=round(run.seconds, 3))
        whole.result = _outcome(run)
        suite.add_testcase(whole)
        for number, check in enumerate(run.checks, start=1):
            name = f"{number:02d} {check['id']}"
            case = TestCase(name, classname=run.chapter.id, time=check["seconds"])
            evidence = f"expected {check['expected']}; observed {check['observed']}"
            if check["outcome"] == "not applicable":
                case.result = [Skipped(check["observed"])]
            elif check["outcome"] == "error":
                case.result = [Error(evidence)]
            elif check["outcome"] != "pass":
                case.result = [Failure(evidence)]
            suite.add_testcase(case)
        document.add_testsuite(suite)
    document.write(str(path), pretty=True)


def _outcome(run: ChapterRun) -> list[Failure | Error | Skipped]:
    if run.result is Result.PASSED:
        return []
    if run.result is Result.SKIPPED:
        return [Skipped(run.reason)]
    kind = Error if run.result is Result.DIED else Failure
    outcome = kind(f"{run.result}: {run.reason}")
    if run.fault:
        outcome.text = f"cell {run.fault.cell}\n{run.fault.source}\n\n{run.fault.text}"
    return [outcome]
