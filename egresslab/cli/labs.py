"""`egresslab labs`: list the chapters, run them as tests, hold them to their conventions.

What reads and runs notebooks takes a second and a half to import, and is an optional extra; so it is imported by the
command that needs it, and the other commands of `egresslab` do not pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from rich.console import Console
from rich.table import Table

from egresslab.cli import jupyter, learning
from egresslab.errors import EgresslabError

app = typer.Typer(help="List, run and check the chapters.", no_args_is_help=True)

Wanted = Annotated[
    list[str] | None, typer.Argument(metavar="[CHAPTER]…", help="Number, id, part of it, or a notebook.")
]
Directory = Annotated[Path | None, typer.Option(help="Where the chapters are.", file_okay=False)]


@app.command("list")
def list_(directory: Directory = None) -> None:
    """List the chapters."""
    table = Table(box=None, header_style="bold")
    for column in ("CHAPTER", "TITLE", "MINUTES", "RUNS ON", "PARAMETERS"):
        table.add_column(column, no_wrap=column == "CHAPTER")
    with _reported():
        from egresslab.lab import chapters, lint

        for chapter in chapters.discover(directory or chapters.home()):
            own = [name for name in chapter.parameters if name not in lint.FIXED_PARAMETERS]
            table.add_row(
                chapter.id, chapter.title, str(chapter.minutes), ", ".join(chapter.environments), ", ".join(own) or "–"
            )
    Console().print(table)


@app.command("lint")
def lint_(wanted: Wanted = None, directory: Directory = None) -> None:
    """Hold the chapters to their conventions; exit 1 if one breaks them."""
    with _reported():
        from egresslab.lab import chapters, lint

        found = chapters.discover(directory or chapters.home(), wanted or ())
        problems = [problem for chapter in found for problem in lint.lint(chapter.path)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(found)} chapters, {len(problems)} problems")
    raise typer.Exit(1 if problems else 0)


for _name, _command in (("progress", learning.progress), ("goto", learning.goto), ("reset", learning.reset)):
    app.command(_name)(_command)
app.command("open", context_settings={"allow_extra_args": True})(jupyter.open_)


@app.command("run")
def run(
    wanted: Wanted = None,
    environment: Annotated[
        str, typer.Option(help="netns, vm, or kubeconfig for the cluster of $KUBECONFIG.")
    ] = "netns",
    lab: Annotated[
        str | None, typer.Option(help="Use this lab and leave it up; default: one of its own for each chapter.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Chapters at a time, each in its own lab; default: cores (vm: 1)."),
    ] = None,
    at_least: Annotated[int, typer.Option(help="Fail if fewer chapters ran (were not skipped).")] = 0,
    red: Annotated[bool, typer.Option(help="Ask each exercise's check before it is solved; it must not pass.")] = True,
    out: Annotated[Path, typer.Option(help="Where notebooks and reports go.")] = Path("build/labs"),
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Parameter of the chapters (YAML)."),
    ] = None,
    mode: Annotated[
        Literal["solve", "learn"], typer.Option(help="solve: solutions run, checks must pass; learn: unsolved.")
    ] = "solve",
    cell_timeout: Annotated[int | None, typer.Option(help="Seconds for one cell; default 90 (vm: 400).")] = None,
    wait_timeout: Annotated[
        int | None, typer.Option(help="Seconds for one wait inside a cell; default 60 (vm: 300).")
    ] = None,
    chapter_timeout: Annotated[
        int | None, typer.Option(help="Seconds for one chapter; default 300 (vm: 3600).")
    ] = None,
    directory: Directory = None,
) -> None:
    """Run chapters as tests; exit 0 when all passed, 1 when one did not or too few ran, 2 when none ran."""
    with _reported(2):
        from egresslab.lab import chapters
        from egresslab.lab.runner import console
        from egresslab.lab.runner.execution import CLOCKS, Clocks
        from egresslab.lab.runner.suite import Suite, cores

        usual = CLOCKS.get(environment, Clocks())
        plan = Suite(
            chapters=chapters.discover(directory or chapters.home(), wanted or ()),
            environment=environment,
            lab=lab,
            out=out,
            parameters=_parameters(parameter or []),
            mode=mode,
            red=red,
            jobs=jobs or (1 if environment == "vm" else cores()),
            at_least=at_least,
            clocks=replace(
                usual,
                cell_s=cell_timeout or usual.cell_s,
                wait_s=wait_timeout or usual.wait_s,
                chapter_s=chapter_timeout or usual.chapter_s,
            ),
        )
    raise typer.Exit(console.run(plan))


def _parameters(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; values are read as YAML, so that numbers and lists come out as such."""
    parameters: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
        parameters[name] = yaml.safe_load(value)
    return parameters


@contextmanager
def _reported(code: int = 1) -> Iterator[None]:
    """Errors meant for users go to standard error, without a traceback."""
    try:
        yield
    except EgresslabError as error:
        print(f"egresslab: {error}", file=sys.stderr)
        raise typer.Exit(code) from error
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("egresslab"):
            raise
        print(f"egresslab: {error.name} is not installed\n  fix: pip install 'egresslab[lab]'", file=sys.stderr)
        raise typer.Exit(code) from error
