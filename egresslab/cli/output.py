"""How listings are written: a table for people, JSON and YAML with stable field names for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Output(StrEnum):
    """The three ways."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputAs = Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")]
LabName = Annotated[str, typer.Option("--lab", envvar="EGRESSLAB_LAB", help="Name of the lab.")]


def write_data(data: Any, output: Output) -> None:
    """Print JSON or YAML."""
    if output is Output.JSON:
        typer.echo(json.dumps(data, indent=2))
    else:
        import yaml

        typer.echo(yaml.safe_dump(data, sort_keys=False), nl=False)


def write_table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; one that is piped is never wrapped."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*heading, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 1000
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
