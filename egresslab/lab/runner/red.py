"""Red before green: each exercise's check, asked before the exercise is solved, must not pass.

A check that cannot fail proves nothing, and only the chapter at work can show that it can. So a copy of the check's
cell is put before the solution's; the notebook on disk stays as it is.
"""

from __future__ import annotations

import copy
import textwrap

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from egresslab.lab import cells

TAG = "unsolved"
PREFIX = "unsolved-"


def with_red(notebook: NotebookNode) -> NotebookNode:
    """A copy of the notebook in which the check of each exercise is asked before its solution as well."""
    changed = copy.deepcopy(notebook)
    checks = {str(cell.id): str(cell.source) for cell in cells.code(notebook)}
    for name in cells.exercises(notebook):
        place = next((i for i, cell in enumerate(changed.cells) if cell.id == f"{cells.SOLUTION}{name}"), None)
        check = checks.get(f"{cells.CHECK}{name}")
        if place is not None and check is not None:
            source = f'with lab.unsolved("{name}"):\n{textwrap.indent(check, "    ")}'
            cell = new_code_cell(source, id=f"{PREFIX}{name}", metadata={"tags": [TAG]})
            changed.cells.insert(place, cell)
    return changed
