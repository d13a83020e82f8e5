"""One embedded cluster for all tests of chapters, and a way to run a chapter, or a spoilt copy of one, on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.lab import chapters
from egresslab.lab.chapters import Chapter
from egresslab.lab.client import Client
from egresslab.lab.runner import suite
from egresslab.lab.runner.execution import ChapterRun
from egresslab.lab.runner.job import Step
from egresslab.lab.runner.suite import Suite
from tests.fresh_lab import fresh_lab

RunChapters = Callable[..., Awaitable[list[ChapterRun]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root; without it, it is skipped and says so."""
    if os.geteuid():
        for item in items:
            if "tests/labs" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="needs root: network namespaces and eBPF"))


class Quiet:
    """A watcher that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def began(self, chapter: Chapter) -> None:
        """Nothing."""

    def stepped(self, chapter: Chapter, step: Step) -> None:
        """Nothing."""

    def ended(self, run: ChapterRun) -> None:
        """Nothing."""


@pytest.fixture(scope="session")
def lab_name() -> Iterator[str]:
    """A lab that is up."""
    with fresh_lab("labs-test") as environment:
        yield environment.lab


@pytest.fixture
def client(lab_name: str) -> Iterator[Client]:
    """A connection to the lab, past everything that is tested."""
    client = Client(NetnsEnvironment(lab_name).kubeconfig())
    yield client
    client.close()


@pytest.fixture
def run_chapters(lab_name: str, tmp_path: Path) -> RunChapters:
    """`await run_chapters(paths, mode="solve", **parameters)` runs notebooks as `egresslab labs run` does."""

    async def run(paths: list[Path], mode: str = "solve", **parameters: Any) -> list[ChapterRun]:
        runs: list[ChapterRun] = []
        plan = Suite([chapters.read(path) for path in paths], "netns", lab_name, tmp_path, parameters, mode)
        await suite.run(plan, Quiet(), runs)
        return runs

    return run


@pytest.fixture
def spoilt(tmp_path: Path) -> Callable[[str, Callable[[NotebookNode], None]], Path]:
    """`spoilt(id, change)`: a copy of a chapter with something changed in it."""

    def make(id: str, change: Callable[[NotebookNode], None]) -> Path:
        path = tmp_path / f"{id}.ipynb"
        shutil.copy(chapters.home() / f"{id}.ipynb", path)
        notebook = nbformat.read(path, as_version=4)
        change(notebook)
        nbformat.write(notebook, path)
        return path

    return make
