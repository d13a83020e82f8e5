"""A suite of chapters in labs of their own: how many at a time, what is taken down, what turns green into red."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egresslab.errors import EnvironmentFailure, LabError
from egresslab.lab.attachment import Attachment
from egresslab.lab.chapters import Chapter
from egresslab.lab.runner import suite
from egresslab.lab.runner.execution import ChapterRun
from egresslab.lab.runner.judge import Result
from egresslab.lab.runner.suite import Suite


class World:
    """Labs that are made up: which are up, which have ever been, and what a chapter finds in its own."""

    def __init__(self) -> None:
        self.up: list[str] = []
        self.topologies: list[str] = []
        self.down: list[str] = []
        self.running: set[str] = set()
        self.most = 0
        self.release = asyncio.Event()
        self.left: tuple[str, ...] = ()
        self.refuse = False

    async def bring_up(self, environment: str, lab: str, *, topology: str, **_: Any) -> Attachment:
        self.up.append(lab)
        self.topologies.append(topology)
        if self.refuse:
            raise EnvironmentFailure("no memory", object=f"lab {lab}")
        return Attachment(environment, lab, Path("kubeconfig"), created=True)

    async def take_down(self, _: str, lab: str, **__: Any) -> None:
        self.down.append(lab)

    async def execute(self, chapter: Chapter, found: Attachment, **_: Any) -> ChapterRun:
        self.running.add(chapter.id)
        self.most = max(self.most, len(self.running))
        await self.release.wait()
        self.running.discard(chapter.id)
        return ChapterRun(chapter, Result.PASSED, "", 1.0)


class Quiet:
    """Nobody is told."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(suite.lab_process, "up", made.bring_up)
    monkeypatch.setattr(suite.lab_process, "down", made.take_down)
    monkeypatch.setattr(suite.execution, "execute", made.execute)
    monkeypatch.setattr(suite, "leftovers", lambda lab: made.left)
    return made


def plan(out: Path, count: int = 5, **changes: Any) -> Suite:
    def chapter(number: int) -> Chapter:
        environments = ("netns",) if number else ("moon",)
        id = f"{number:02d}-x"
        return Chapter(id, Path(f"{id}.ipynb"), "X", 1, environments, (), f"topology-{number}", {"mode": ""})

    return Suite([chapter(number) for number in range(count)], "netns", None, out, **{"jobs": 2, **changes})


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # other tasks make it so
            await asyncio.sleep(0)


async def test_as_many_chapters_at_a_time_as_there_are_jobs_and_one_lab_ahead(world: World, tmp_path: Path) -> None:
    runs: list[ChapterRun] = []
    task = asyncio.create_task(suite.run(plan(tmp_path), Quiet(), runs))
    await settled(lambda: len(world.running) == 2 and len(world.up) == 3)
    world.release.set()
    await task
    assert world.most == 2
    assert [(run.chapter.id, run.result.value) for run in runs] == [
        ("00-x", "skipped"),
        *((f"0{number}-x", "passed") for number in range(1, 5)),
    ]
    assert sorted(world.down) == sorted(world.up)
    assert world.topologies == [f"topology-{number}" for number in range(1, 5)]
    assert suite.exit_code(runs) == 0
    assert suite.exit_code(runs, at_least=5) == 1


async def test_what_is_left_on_the_host_turns_green_into_red(world: World, tmp_path: Path) -> None:
    world.release.set()
    world.left = ("network namespace egresslab-run-x-outside",)
    runs: list[ChapterRun] = []
    await suite.run(plan(tmp_path, 2), Quiet(), runs)
    assert (runs[1].result, runs[1].leaked) == (Result.LEAKED, world.left)
    assert suite.exit_code(runs) == 1


async def test_a_lab_that_does_not_come_up_fails_its_chapter_and_is_taken_down(world: World, tmp_path: Path) -> None:
    world.refuse = True
    runs: list[ChapterRun] = []
    await suite.run(plan(tmp_path, 2), Quiet(), runs)
    assert runs[1].result is Result.FAILED
    assert "its lab did not come up" in runs[1].reason
    assert world.down == world.up


async def test_cancelling_ends_what_runs_and_takes_every_lab_down(world: World, tmp_path: Path) -> None:
    runs: list[ChapterRun] = []
    task = asyncio.create_task(suite.run(plan(tmp_path), Quiet(), runs))
    await settled(lambda: len(world.running) == 2 and len(world.up) == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(world.down) == sorted(world.up)
    assert {run.reason for run in runs if run.result is Result.FAILED} == {"interrupted"}


async def test_a_parameter_that_no_chapter_has_is_refused_before_anything_starts(world: World, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no such parameter"):
        await suite.run(plan(tmp_path, parameters={"mod": 1}), Quiet(), [])
    assert world.up == []
