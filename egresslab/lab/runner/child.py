"""Running the worker under a clock, and ending it whole when the time is up or the user has had enough.

The worker gets a session of its own. A Jupyter kernel starts in yet another one, so the whole family is looked up
before anything is ended: a killed group alone would leave kernels behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from egresslab.lab.runner.job import Job, Step

GRACE_S = 3.0
"""Between asking the family to end and killing it."""
LOOK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker ended: `exit_code` is None when its time was up; `last_cell` is the cell that it began last."""

    exit_code: int | None
    last_cell: str


async def execute(
    job: Job, *, timeout_s: float, log: Path, environment: Mapping[str, str], on_step: Callable[[Step], None]
) -> Ended:
    """Execute a notebook in a child and wait for it, `timeout_s` seconds at the longest.

    However this function is left, by return, cancellation or error, no process of the child's family is left running.
    """
    last = ""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "egresslab.lab.runner.worker",
            job.to_text(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                async for line in process.stdout:
                    with contextlib.suppress(ValueError):  # a line that is no step is not ours
                        step = Step.from_text(line.decode())
                        last = step.id
                        on_step(step)
                return Ended(await process.wait(), last)
        except TimeoutError:
            return Ended(None, last)
        finally:
            await asyncio.shield(_end_family(process))


async def _end_family(process: asyncio.subprocess.Process) -> None:
    family = _family(process.pid)
    for signal_all in (psutil.Process.terminate, psutil.Process.kill):
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                signal_all(member)
        for _ in range(int(GRACE_S / LOOK_AGAIN_S)):
            family = [member for member in family if _alive(member)]
            if not family:
                break
            await asyncio.sleep(LOOK_AGAIN_S)
    await process.wait()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def _alive(member: psutil.Process) -> bool:
    try:
        return member.is_running() and member.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
