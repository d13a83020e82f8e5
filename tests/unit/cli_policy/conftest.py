"""The command line in process, on manifests in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from egresslab.cli.policy import app

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """`run("entries", "-f", …, stdin=…)`: stdout and stderr apart, as a shell sees them."""
    runner = CliRunner()

    def call(*arguments: object, stdin: str | None = None) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)

    return call


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write("name.yaml", obj, …)`: objects as documents of one file; returns its path."""

    def file(name: str, *objects: object) -> Path:
        path = tmp_path / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = objects[0] if isinstance(objects[0], str) else yaml.safe_dump_all(objects, sort_keys=False)
        path.write_text(str(text))
        return path

    return file
