"""Cells of a notebook as the lint, the judge and the runner look at them: reading only."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

EXERCISE, SOLUTION, CHECK, ABOUT = "exercise-", "solve-", "check-", "about-"
"""How the ids of the cells of an exercise begin; its name follows."""


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> Sequence[str]:
    """A cell's tags."""
    found: Sequence[str] = cell.metadata.get("tags", [])
    return found


def statements(cell: NotebookNode) -> list[ast.stmt]:
    """The cell's code as Python reads it; nothing for code that it cannot read."""
    try:
        return ast.parse(str(cell.source)).body
    except SyntaxError:
        return []


def exercises(notebook: NotebookNode) -> list[str]:
    """The names of the exercises, in order."""
    return [str(cell.id).removeprefix(EXERCISE) for cell in code(notebook) if "exercise" in tags(cell)]


def first_arguments(cell: NotebookNode, method: str) -> list[str]:
    """The text that each call of `lab.METHOD` in a cell has as its first argument."""
    return [
        str(call.args[0].value)
        for statement in statements(cell)
        for call in ast.walk(statement)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == method
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "lab"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]
