"""The whole run: one lab up, chapter after chapter, one verdict for each, the lab down whatever happens.

One place decides what a chapter's result is, from what its notebook shows, what the clock said and what it left behind.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import nbformat

from egresslab.errors import EgresslabError
from egresslab.lab import attachment
from egresslab.lab.chapters import Chapter
from egresslab.lab.checks.grader import Mode
from egresslab.lab.client import Client
from egresslab.lab.progress import STATE_VARIABLE
from egresslab.lab.runner import child, lab_process, leaks
from egresslab.lab.runner.job import Job, Step
from egresslab.lab.runner.judge import Fault, Judgement, Result, judge
from egresslab.lab.session import RUN_VARIABLE

SETTLE_S = 20.0
"""How long a namespace that is being deleted may take before it counts as left behind."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds that a cell, a wait inside a cell, a chapter, and bringing the lab up may take."""

    cell_s: int = 90
    wait_s: int = 60
    chapter_s: int = 300
    up_s: int = 120


@dataclass(frozen=True, slots=True)
class ChapterRun:
    """A chapter's result with its evidence; `executed` is None when the notebook was never started."""

    chapter: Chapter
    result: Result
    reason: str
    seconds: float
    checks: tuple[dict[str, Any], ...] = ()
    fault: Fault | None = None
    executed: Path | None = None
    leaked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """What to run and where: `lab` is None for a lab of its own that is taken down afterwards."""

    chapters: Sequence[Chapter]
    environment: str
    lab: str | None
    out: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "solve"
    red: bool = True
    clocks: Clocks = Clocks()


class Watcher(Protocol):
    """Who is told what the suite is doing."""

    def say(self, text: str) -> None:
        """A line about the lab."""

    def began(self, chapter: Chapter) -> None:
        """A chapter starts."""

    def stepped(self, chapter: Chapter, step: Step) -> None:
        """A cell of it starts."""

    def ended(self, run: ChapterRun) -> None:
        """It has its result."""


async def run(suite: Suite, watcher: Watcher, runs: list[ChapterRun]) -> None:
    """Run every chapter of the suite in order and append each result to `runs` as it comes.

    When this is cancelled the results so far stand, the running chapter is ended and the lab is taken down. Raises
    `LabError` for a parameter that a chapter does not have, before anything is started, and `EnvironmentFailure` when
    the lab does not come up.
    """
    for chapter in suite.chapters:
        chapter.refuse_unknown(suite.parameters)
    able = [chapter for chapter in suite.chapters if not chapter.lacking(suite.environment)]
    for page in suite.out.glob("*.html"):
        page.unlink()
    for directory in ("executed", "log"):
        shutil.rmtree(suite.out / directory, ignore_errors=True)
        (suite.out / directory).mkdir(parents=True)
    own = suite.lab is None and suite.environment != attachment.OUTSIDE_CLUSTER
    lab = suite.lab or f"run-{secrets.token_hex(3)}"
    try:
        found = (
            await lab_process.up(suite.environment, lab, timeout_s=suite.clocks.up_s, say=watcher.say) if able else None
        )
        for chapter in suite.chapters:
            watcher.began(chapter)
            if found is None or chapter not in able:
                ended = ChapterRun(chapter, Result.SKIPPED, chapter.lacking(suite.environment), 0.0)
            else:
                started = time.monotonic()
                try:
                    ended = await _run_chapter(suite, found, chapter, watcher)
                except asyncio.CancelledError:
                    runs.append(ChapterRun(chapter, Result.FAILED, "interrupted", time.monotonic() - started))
                    raise
            runs.append(ended)
            watcher.ended(ended)
    finally:
        if own and able:
            # Cancelled or not, nothing may stay behind.
            await asyncio.shield(lab_process.down(suite.environment, lab, say=watcher.say))


async def _run_chapter(suite: Suite, found: attachment.Attachment, chapter: Chapter, watcher: Watcher) -> ChapterRun:
    client = Client(found.kubeconfig)
    executed = suite.out / "executed" / f"{chapter.id}.ipynb"
    run_id = secrets.token_hex(3)
    given = {
        **suite.parameters,
        "environment": found.environment,
        "lab_name": found.lab,
        "mode": suite.mode,
        "timeout_s": suite.clocks.wait_s,
    }
    job = Job(
        chapter.path.resolve(),
        executed.resolve(),
        {name: value for name, value in given.items() if name in chapter.parameters},
        suite.clocks.cell_s,
        red=suite.red and suite.mode == Mode.SOLVE,
    )
    started = time.monotonic()
    before = leaks.snapshot(client)
    try:
        ended = await child.execute(
            job,
            timeout_s=suite.clocks.chapter_s,
            log=suite.out / "log" / f"{chapter.id}.log",
            environment={RUN_VARIABLE: run_id, STATE_VARIABLE: str(suite.out / "state")},
            on_step=lambda step: watcher.stepped(chapter, step),
        )
        judged = _judged(executed, ended, suite.clocks)
        left = await _left(client, before, watcher)
    finally:
        _reap(client, run_id, watcher)
        client.close()
    result = ChapterRun(
        chapter,
        judged.result,
        judged.reason,
        time.monotonic() - started,
        judged.checks,
        judged.fault,
        executed if executed.exists() else None,
        left,
    )
    if left and result.result is Result.PASSED:
        return replace(result, result=Result.LEAKED, reason=f"left behind: {', '.join(left)}")
    return result


def _judged(executed: Path, ended: child.Ended, clocks: Clocks) -> Judgement:
    if not executed.exists():
        return Judgement(Result.DIED, "the worker ended before it wrote a notebook; see the chapter's log", ())
    notebook = nbformat.read(executed, as_version=4)
    if ended.exit_code is not None:
        return judge(notebook, exit_code=ended.exit_code, last_cell=ended.last_cell)
    so_far = judge(notebook, exit_code=0, last_cell=ended.last_cell)
    source = next((cell.source for cell in notebook.cells if cell.id == ended.last_cell), "")
    reason = f"not done after {clocks.chapter_s} s, in cell {ended.last_cell!r}"
    return Judgement(
        Result.TIMEOUT, reason, so_far.checks, Fault(ended.last_cell, source, "ended by the chapter's clock")
    )


async def _left(client: Client, before: leaks.Snapshot, watcher: Watcher) -> tuple[str, ...]:
    """What the chapter left behind, after giving deletions that are under way time to finish."""
    deadline = time.monotonic() + SETTLE_S
    try:
        while True:
            left = leaks.snapshot(client).beyond(before)
            if not left or time.monotonic() >= deadline or not leaks.terminating(client):
                return left
            await asyncio.sleep(0.2)
    except EgresslabError as error:
        watcher.say(f"cannot tell what is left behind: {error}")
        return ("unknown: the API server does not answer",)


def _reap(client: Client, run_id: str, watcher: Watcher) -> None:
    try:
        for name in leaks.reap(client, run_id):
            watcher.say(f"removed {name}")
    except EgresslabError as error:
        watcher.say(f"clean-up incomplete: {error}")


def exit_code(runs: Sequence[ChapterRun]) -> int:
    """0 when every chapter that ran has passed, 1 when one has not, 2 when none ran."""
    ran = [run for run in runs if run.result is not Result.SKIPPED]
    if not ran:
        return 2
    return 0 if all(run.result is Result.PASSED for run in ran) else 1
