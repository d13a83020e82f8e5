"""The whole run: each chapter in a lab of its own, as many at a time as there are cores, one verdict for each.

One place decides which lab a chapter gets and that it is taken down again; what a chapter's result is, is decided in
`execution`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from egresslab.environments.netns.leftovers import leftovers
from egresslab.errors import EgresslabError
from egresslab.lab import attachment
from egresslab.lab.attachment import Attachment
from egresslab.lab.chapters import Chapter
from egresslab.lab.runner import execution, lab_process
from egresslab.lab.runner.execution import ChapterRun, Clocks
from egresslab.lab.runner.job import Step
from egresslab.lab.runner.judge import Result

AHEAD = 1
"""How many labs are brought up while others are at work: coming up is mostly waiting."""


def cores() -> int:
    """How many chapters run at a time by default."""
    return max(1, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class Suite:
    """What to run and where: `lab` is None for a lab of its own for each chapter, taken down afterwards.

    In one lab chapters run one after the other, for they would see each other's policies. `at_least` is how many must
    have run for the run to count as good; `red` asks each exercise's check before it is solved, too.
    """

    chapters: Sequence[Chapter]
    environment: str
    lab: str | None
    out: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "solve"
    red: bool = True
    clocks: Clocks = field(default_factory=Clocks)
    jobs: int = field(default_factory=cores)
    at_least: int = 0

    @property
    def own_labs(self) -> bool:
        """Whether each chapter gets a lab of its own."""
        return self.lab is None and self.environment != attachment.OUTSIDE_CLUSTER


class Watcher(Protocol):
    """Who is told what the suite is doing."""

    def say(self, text: str) -> None:
        """A line about the suite, or about a lab."""

    def began(self, chapter: Chapter) -> None:
        """A chapter starts."""

    def stepped(self, chapter: Chapter, step: Step) -> None:
        """A cell of it starts."""

    def ended(self, run: ChapterRun) -> None:
        """It has its result."""


async def run(suite: Suite, watcher: Watcher, runs: list[ChapterRun]) -> None:
    """Run every chapter of the suite, and put each result into `runs`, which ends up in the order of the chapters.

    When this is cancelled the results so far stand, running chapters are ended and their labs taken down. Raises
    `LabError` for a parameter that no chapter has, before anything is started, and `EnvironmentFailure` when the one
    lab that was asked for does not come up; a chapter whose own lab does not come up has failed.
    """
    _refuse_unknown(suite)
    _clear(suite.out)
    order = {chapter.id: number for number, chapter in enumerate(suite.chapters)}
    try:
        if suite.own_labs:
            await _in_labs_of_their_own(suite, watcher, runs)
        else:
            await _in_one_lab(suite, watcher, runs)
    finally:
        runs.sort(key=lambda ended: order[ended.chapter.id])


async def _in_labs_of_their_own(suite: Suite, watcher: Watcher, runs: list[ChapterRun]) -> None:
    labs, kernels = asyncio.Semaphore(suite.jobs + AHEAD), asyncio.Semaphore(suite.jobs)
    async with asyncio.TaskGroup() as tasks:
        for chapter in suite.chapters:
            tasks.create_task(_in_own_lab(suite, chapter, watcher, runs, labs, kernels), name=chapter.id)


async def _in_own_lab(
    suite: Suite,
    chapter: Chapter,
    watcher: Watcher,
    runs: list[ChapterRun],
    labs: asyncio.Semaphore,
    kernels: asyncio.Semaphore,
) -> None:
    if reason := chapter.lacking(suite.environment):
        _ended(ChapterRun(chapter, Result.SKIPPED, reason, 0.0), watcher, runs)
        return
    lab = f"run-{secrets.token_hex(3)}"
    started = time.monotonic()
    async with labs:
        ended = ChapterRun(chapter, Result.FAILED, "interrupted", 0.0)
        try:
            began = time.monotonic()
            found = await lab_process.up(
                suite.environment, lab, topology=chapter.topology, timeout_s=suite.clocks.up_s, say=_nothing
            )
            up_s = time.monotonic() - began
            async with kernels:
                started = time.monotonic()
                watcher.began(chapter)
                ended = replace(await _execute(suite, found, chapter, watcher), up_seconds=up_s)
        except EgresslabError as error:
            ended = ChapterRun(chapter, Result.FAILED, f"its lab did not come up: {error}", 0.0)
        except asyncio.CancelledError:
            ended = replace(ended, seconds=time.monotonic() - started)
            raise
        finally:
            # Cancelled or not, nothing may stay behind.
            left = await asyncio.shield(_down(suite.environment, lab))
            if left and ended.result is Result.PASSED:
                ended = replace(ended, result=Result.LEAKED, reason=f"left on the host: {', '.join(left)}")
            _ended(replace(ended, leaked=(*ended.leaked, *left)), watcher, runs)


async def _in_one_lab(suite: Suite, watcher: Watcher, runs: list[ChapterRun]) -> None:
    lab = suite.lab or ""
    able = [chapter for chapter in suite.chapters if not chapter.lacking(suite.environment)]
    found = (
        await lab_process.attached(suite.environment, lab, timeout_s=suite.clocks.up_s, say=watcher.say)
        if able
        else None
    )
    for chapter in suite.chapters:
        if found is None or chapter not in able:
            _ended(ChapterRun(chapter, Result.SKIPPED, chapter.lacking(suite.environment), 0.0), watcher, runs)
            continue
        started = time.monotonic()
        watcher.began(chapter)
        try:
            ended = await _execute(suite, found, chapter, watcher)
        except asyncio.CancelledError:
            seconds = time.monotonic() - started
            _ended(ChapterRun(chapter, Result.FAILED, "interrupted", seconds), watcher, runs)
            raise
        _ended(ended, watcher, runs)


async def _execute(suite: Suite, found: Attachment, chapter: Chapter, watcher: Watcher) -> ChapterRun:
    return await execution.execute(
        chapter,
        found,
        out=suite.out,
        parameters=suite.parameters,
        mode=suite.mode,
        red=suite.red,
        clocks=suite.clocks,
        on_step=lambda step: watcher.stepped(chapter, step),
        say=watcher.say,
    )


async def _down(environment: str, lab: str) -> tuple[str, ...]:
    """Take a lab down; what is left of it all the same."""
    try:
        await lab_process.down(environment, lab, say=_nothing)
    except EgresslabError as error:
        return (str(error), *leftovers(lab))
    return leftovers(lab)


def _ended(run: ChapterRun, watcher: Watcher, runs: list[ChapterRun]) -> None:
    runs.append(run)
    watcher.ended(run)


def _nothing(_: str) -> None:
    """Nobody is told: a lab's own lines would be torn apart by those of its neighbours."""


def _refuse_unknown(suite: Suite) -> None:
    for name in suite.parameters:
        if suite.chapters and not any(name in chapter.parameters for chapter in suite.chapters):
            suite.chapters[0].refuse_unknown([name])


def _clear(out: Path) -> None:
    """Remove what an earlier run left in the directory; what somebody else put there stays."""
    for page in out.glob("*.html"):
        page.unlink()
    for directory in ("executed", "log"):
        shutil.rmtree(out / directory, ignore_errors=True)
        (out / directory).mkdir(parents=True)


def exit_code(runs: Sequence[ChapterRun], at_least: int = 0) -> int:
    """0 when every chapter that ran has passed, 1 when one has not or fewer ran than there must, 2 when none ran."""
    ran = [run for run in runs if run.result is not Result.SKIPPED]
    if not ran:
        return 2
    return 0 if len(ran) >= at_least and all(run.result is Result.PASSED for run in ran) else 1
