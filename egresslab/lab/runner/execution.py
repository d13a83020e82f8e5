"""One chapter in one lab: run in a child, judged by its notebook, by the clock and by what it left in the cluster."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat

from egresslab.errors import EgresslabError
from egresslab.lab.attachment import Attachment
from egresslab.lab.chapters import Chapter
from egresslab.lab.checks.grader import Mode
from egresslab.lab.client import Client
from egresslab.lab.progress import STATE_VARIABLE
from egresslab.lab.runner import child, leaks
from egresslab.lab.runner.job import Job, Step
from egresslab.lab.runner.judge import Fault, Judgement, Result, judge
from egresslab.lab.session import RUN_VARIABLE

SETTLE_S = 20.0
"""How long a namespace that is being deleted may take before it counts as left behind."""
LOOK_AGAIN_S = 0.2

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds that a cell, a wait inside a cell, a chapter, and bringing its lab up may take."""

    cell_s: int = 90
    wait_s: int = 60
    chapter_s: int = 300
    up_s: int = 120


CLOCKS = {"vm": Clocks(cell_s=900, wait_s=300, chapter_s=3600, up_s=1200)}
"""Where nodes may be machines with emulated processors, everything takes its time."""


@dataclass(frozen=True, slots=True)
class ChapterRun:
    """A chapter's result with its evidence; `executed` is None when the notebook was never started.

    `seconds` is the chapter's own time, `up_seconds` that of bringing up its lab, `cells` that of each code cell.
    """

    chapter: Chapter
    result: Result
    reason: str
    seconds: float
    checks: tuple[dict[str, Any], ...] = ()
    fault: Fault | None = None
    executed: Path | None = None
    leaked: tuple[str, ...] = ()
    unsolved: tuple[dict[str, Any], ...] = ()
    cells: tuple[tuple[str, float], ...] = ()
    up_seconds: float = 0.0


async def execute(
    chapter: Chapter,
    found: Attachment,
    *,
    out: Path,
    parameters: Mapping[str, Any],
    mode: str,
    red: bool,
    clocks: Clocks,
    on_step: Callable[[Step], None],
    say: Say,
) -> ChapterRun:
    """Run a chapter on a lab that is up; whatever it leaves in the cluster is found, told and removed.

    The executed notebook goes to `out/executed`, what its worker printed to `out/log`. Raises `EgresslabError` when the
    cluster does not answer before the chapter has begun.
    """
    client = Client(found.kubeconfig)
    executed = out / "executed" / f"{chapter.id}.ipynb"
    run_id = secrets.token_hex(3)
    given = {
        **parameters,
        "environment": found.environment,
        "lab_name": found.lab,
        "mode": mode,
        "timeout_s": clocks.wait_s,
    }
    job = Job(
        chapter.path.resolve(),
        executed.resolve(),
        {name: value for name, value in given.items() if name in chapter.parameters},
        clocks.cell_s,
        red=red and mode == Mode.SOLVE,
    )
    started = time.monotonic()
    try:
        # In threads, for the client is synchronous and must not hold up the clocks of other chapters.
        before = await asyncio.to_thread(leaks.snapshot, client)
        ended = await child.execute(
            job,
            timeout_s=clocks.chapter_s,
            log=out / "log" / f"{chapter.id}.log",
            environment={RUN_VARIABLE: run_id, STATE_VARIABLE: str((out / "state").resolve())},
            on_step=on_step,
        )
        judged = _judged(executed, ended, clocks, Mode(mode))
        left = await _left(client, before, say)
    finally:
        await asyncio.shield(asyncio.to_thread(_reap, client, run_id, say))
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
        judged.unsolved,
        _cells(executed),
    )
    if left and result.result is Result.PASSED:
        return replace(result, result=Result.LEAKED, reason=f"left behind: {', '.join(left)}")
    return result


def _judged(executed: Path, ended: child.Ended, clocks: Clocks, mode: Mode) -> Judgement:
    if not executed.exists():
        return Judgement(Result.DIED, "the worker ended before it wrote a notebook; see the chapter's log", ())
    notebook = nbformat.read(executed, as_version=4)
    if ended.exit_code is not None:
        return judge(notebook, exit_code=ended.exit_code, last_cell=ended.last_cell, mode=mode)
    so_far = judge(notebook, exit_code=0, last_cell=ended.last_cell, mode=mode)
    source = next((cell.source for cell in notebook.cells if cell.id == ended.last_cell), "")
    reason = f"not done after {clocks.chapter_s} s, in cell {ended.last_cell!r}"
    fault = Fault(ended.last_cell, source, "ended by the chapter's clock")
    return Judgement(Result.TIMEOUT, reason, so_far.checks, fault, so_far.unsolved)


def _cells(executed: Path) -> tuple[tuple[str, float], ...]:
    """Each code cell that ran, and how long it took, as papermill noted it."""
    if not executed.exists():
        return ()
    cells = nbformat.read(executed, as_version=4).cells
    times = ((str(cell.id), cell.metadata.get("papermill", {}).get("duration")) for cell in cells)
    return tuple((id, round(float(took), 3)) for id, took in times if took is not None)


async def _left(client: Client, before: leaks.Snapshot, say: Say) -> tuple[str, ...]:
    """What the chapter left behind, after giving deletions that are under way time to finish."""
    deadline = time.monotonic() + SETTLE_S
    try:
        while True:
            left = (await asyncio.to_thread(leaks.snapshot, client)).beyond(before)
            if not left or time.monotonic() >= deadline or not await asyncio.to_thread(leaks.terminating, client):
                return left
            await asyncio.sleep(LOOK_AGAIN_S)
    except EgresslabError as error:
        say(f"cannot tell what is left behind: {error}")
        return ("unknown: the API server does not answer",)


def _reap(client: Client, run_id: str, say: Say) -> None:
    try:
        for name in leaks.reap(client, run_id):
            say(f"removed {name}")
    except EgresslabError as error:
        say(f"clean-up incomplete: {error}")
