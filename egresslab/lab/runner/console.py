"""A suite on a terminal: progress while it runs, a table when it is over, and an orderly end on SIGINT and SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from egresslab.errors import EgresslabError
from egresslab.lab.chapters import Chapter
from egresslab.lab.runner import pages, records, suite
from egresslab.lab.runner.execution import ChapterRun
from egresslab.lab.runner.job import Step
from egresslab.lab.runner.judge import Result
from egresslab.lab.runner.suite import Suite

INTERRUPTED = 130
"""Exit code after SIGINT, as shells have it."""
WIDE = 160
"""Columns of a table that goes to a file or a pipe."""


def run(plan: Suite) -> int:
    """Run a suite, write its reports and print its results; returns the exit code of `perform`."""
    code, _ = perform(plan)
    return code


def perform(plan: Suite) -> tuple[int, list[ChapterRun]]:
    """Run a suite, write its reports and print its results; returns the exit code and the results.

    0: every chapter that ran has passed; 1: one has not; 2: none ran; 130: interrupted, with everything taken down.
    """
    started = datetime.now(UTC)
    runs: list[ChapterRun] = []
    code = 0
    with Watch() as watch:
        try:
            asyncio.run(_until_signalled(plan, watch, runs))
        except asyncio.CancelledError:
            watch.say("interrupted")
            code = INTERRUPTED
        except EgresslabError as error:
            watch.say(str(error))
            code = 1 if runs else 2
    plan.out.mkdir(parents=True, exist_ok=True)
    records.write_json(plan.out / "results.json", runs, environment=plan.environment, started=started)
    records.write_junit(plan.out / "junit.xml", runs)
    index = pages.write_pages(plan.out, runs, environment=plan.environment, started=started)
    _print_results(runs)
    took = (datetime.now(UTC) - started).total_seconds()
    print(f"{pages.summary(runs)} {took:.0f} s. Report: {index}")
    ran = sum(run.result is not Result.SKIPPED for run in runs)
    if ran < plan.at_least:
        print(f"Only {ran} chapters ran; at least {plan.at_least} must.")
    return code or suite.exit_code(runs, plan.at_least), runs


async def _until_signalled(plan: Suite, watch: Watch, runs: list[ChapterRun]) -> None:
    """Run the suite as a task that SIGINT and SIGTERM cancel, so that everything is taken down either way."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(suite.run(plan, watch, runs), name="suite")
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class Watch:
    """The suite's progress on a terminal; plain lines where there is none."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} cells"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line about the lab."""
        self._console.print(text, markup=False, highlight=False, style="dim", soft_wrap=True)

    def began(self, chapter: Chapter) -> None:
        """A chapter starts."""
        self._tasks[chapter.id] = self._progress.add_task(chapter.id, total=None)

    def stepped(self, chapter: Chapter, step: Step) -> None:
        """A cell starts."""
        description = f"{chapter.id} · {step.id}"
        task = self._tasks[chapter.id]
        self._progress.update(task, completed=step.index, total=step.total, description=description)

    def ended(self, run: ChapterRun) -> None:
        """A chapter has its result."""
        if run.chapter.id in self._tasks:
            self._progress.remove_task(self._tasks.pop(run.chapter.id))
        reason = f" ({run.reason})" if run.reason else ""
        line = f"{_mark(run)} {run.chapter.id}: {run.result}, {run.seconds:.1f} s{reason}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_results(runs: list[ChapterRun]) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("CHAPTER", "RESULT", "TIME", "CHECKS", "REASON"):
        table.add_column(column, justify="right" if column in ("TIME", "CHECKS") else "left")
    for run in runs:
        passed = sum(check["outcome"] == "pass" for check in run.checks)
        table.add_row(
            run.chapter.id,
            f"{_mark(run)} {run.result}",
            f"{run.seconds:.1f} s",
            f"{passed}/{len(run.checks)}",
            run.reason,
        )
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
    for run in runs:
        if run.fault:
            print(f"\n{run.chapter.id}, cell {run.fault.cell}:\n{run.fault.source}\n\n{run.fault.text}")


def _mark(run: ChapterRun) -> str:
    return {Result.PASSED: "✔", Result.SKIPPED: "–"}.get(run.result, "✘")
