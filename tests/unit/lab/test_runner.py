"""The runner against real kernels: notebooks that fail, hang, die or end early, and what is left running."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from egresslab.lab.runner import child
from egresslab.lab.runner.job import Job, Step
from egresslab.lab.runner.judge import Judgement, Result, judge

RECORD = """
from IPython.display import publish_display_data
record = {{"id": "a", "title": "t", "outcome": "{}", "expected": "x", "observed": "y", "seconds": 0.1}}
publish_display_data({{"application/vnd.egresslab.check+json": record, "text/plain": "a"}})
"""


def write(directory: Path, name: str, cells: list[str], tags: list[str]) -> Path:
    notebook = new_notebook(cells=[new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(cells)])
    notebook.cells[-1].metadata.tags = tags
    path = directory / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


async def execute(
    directory: Path,
    name: str,
    cells: list[str],
    *,
    tags: list[str] | None = None,
    timeout_s: float = 60.0,
    cell_timeout_s: int = 3,
) -> tuple[child.Ended, Judgement, list[Step]]:
    steps: list[Step] = []
    executed = directory / f"{name}-executed.ipynb"
    job = Job(write(directory, name, cells, tags or []), executed, {}, cell_timeout_s=cell_timeout_s)
    ended = await child.execute(
        job, timeout_s=timeout_s, log=directory / f"{name}.log", environment={}, on_step=steps.append
    )
    code = -1 if ended.exit_code is None else ended.exit_code
    return ended, judge(nbformat.read(executed, as_version=4), exit_code=code, last_cell=ended.last_cell), steps


async def test_what_becomes_of_notebooks(tmp_path: Path) -> None:
    cases: dict[str, tuple[list[str], list[str], Result, str]] = {
        "good": (["1", RECORD.format("pass")], ["check"], Result.PASSED, ""),
        "not-applicable": (["1", RECORD.format("not applicable")], ["check"], Result.PASSED, ""),
        "error": (["1", "1 / 0", "2"], [], Result.FAILED, "cell 'cell-1': division by zero"),
        "hanging": (["1", "import time; time.sleep(60)", "2"], [], Result.TIMEOUT, "cell 'cell-1' took too long"),
        "dying": (["1", "import os; os._exit(0)", "2"], [], Result.DIED, "the kernel died in cell 'cell-1'"),
        "leaving": (["1", "import sys; sys.exit(0)", "2"], [], Result.FAILED, "cell 'cell-1': 0"),
        "unsolved": ([RECORD.format("not attempted")], ["check"], Result.FAILED, "check a: not attempted"),
        "unchecked": (["1"], ["check"], Result.FAILED, "cell 'cell-0' is tagged as a check but checked nothing"),
        "elsewhere": (
            ["from egresslab.lab.waits import Pending\nclass Skipped(Exception): ...\nraise Skipped('no IPv6 here')"],
            [],
            Result.SKIPPED,
            "no IPv6 here",
        ),
    }
    limit = asyncio.Semaphore(3)

    async def run(name: str, cells: list[str], tags: list[str]) -> Judgement:
        async with limit:
            return (await execute(tmp_path, name, cells, tags=tags))[1]

    judgements = await asyncio.gather(*(run(name, cells, tags) for name, (cells, tags, _, _) in cases.items()))
    seen = {name: (found.result, found.reason) for name, found in zip(cases, judgements, strict=True)}
    assert seen == {name: (result, reason) for name, (_, _, result, reason) in cases.items()}


async def test_progress_names_each_cell(tmp_path: Path) -> None:
    _, _, steps = await execute(tmp_path, "steps", ["1", "2"])
    assert steps == [Step(0, 2, "cell-0"), Step(1, 2, "cell-1")]


HANGING = """
import subprocess, pathlib
child = subprocess.Popen(['sleep', '600'])
pathlib.Path({!r}).write_text(str(child.pid))
"""


def runs(pid: int) -> bool:
    """Whether a process still does something; one that only waits for its parent to take notice does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_when_time_is_up_the_whole_family_ends(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    ended, _, _ = await execute(
        tmp_path,
        "late",
        [HANGING.format(str(marker)), "import time; time.sleep(600)"],
        timeout_s=10.0,
        cell_timeout_s=60,
    )
    assert ended.exit_code is None
    assert not runs(int(marker.read_text()))


async def test_cancelling_ends_the_whole_family(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    task = asyncio.create_task(execute(tmp_path, "cut", [HANGING.format(str(marker)), "import time; time.sleep(600)"]))
    async with asyncio.timeout(20):
        while not (marker.exists() and marker.read_text()):  # noqa: ASYNC110  # a file has no event to wait for
            await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not runs(int(marker.read_text()))
