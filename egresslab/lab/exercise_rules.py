"""The lint's rules about exercises: four cells in a row, a solution beside the chapter, a check that exists."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from egresslab.errors import LabError
from egresslab.lab import cells, locations
from egresslab.lab.checks import catalogue

Breach = tuple[str, str]
"""(cell id, message)"""


def exercise_cells(notebook: NotebookNode, path: Path) -> Iterator[Breach]:
    """about-, exercise-, solve- and check-NAME follow each other, so that runner and reader find one from the other."""
    ids = [str(cell.id) for cell in notebook.cells]
    for cell in cells.code(notebook):
        known, id = cells.tags(cell), str(cell.id)
        for tag, prefix in (("exercise", cells.EXERCISE), ("solution", cells.SOLUTION)):
            if (tag in known) != id.startswith(prefix):
                yield id, f"has either the tag {tag} or an id that begins with {prefix}, and not both"
    for name in cells.exercises(notebook):
        wanted = [f"{prefix}{name}" for prefix in (cells.ABOUT, cells.EXERCISE, cells.SOLUTION, cells.CHECK)]
        place = ids.index(wanted[1])
        if ids[max(0, place - 1) : place + 3] != wanted:
            yield wanted[1], f"does not stand in a row {', '.join(wanted)}"
            continue
        solution, check = notebook.cells[place + 1], notebook.cells[place + 2]
        if len(cells.statements(solution)) != 1 or cells.first_arguments(solution, "solve") != [name]:
            yield str(solution.id), f'is not the one statement lab.solve("{name}", …)'
        if name not in cells.first_arguments(check, "check"):
            yield str(check.id), f'has no lab.check("{name}", …)'


def solutions(notebook: NotebookNode, path: Path) -> Iterator[Breach]:
    """Each exercise has a solution in the file beside the chapter, and each solution an exercise."""
    names = cells.exercises(notebook)
    file = path.parent / locations.SOLUTIONS / f"chapter_{locations.number(path.stem)}.py"
    shown = f"{locations.SOLUTIONS}/{file.name}"
    if not file.is_file():
        if names:
            yield "", f"has exercises, and there is no {shown}"
        return
    body = ast.parse(file.read_text()).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    found = {function.name.replace("_", "-") for function in functions}
    for name in names:
        if name not in found:
            yield f"{cells.EXERCISE}{name}", f"has no function {name.replace('-', '_')} in {shown}"
    for name in sorted(found - set(names)):
        yield "", f"{shown} solves {name}, which is no exercise here"
    for function in functions:
        if not ast.get_docstring(function):
            yield "", f"{shown}: {function.name} has no docstring that says why it works"


def known_checks(notebook: NotebookNode, path: Path) -> Iterator[Breach]:
    """A check or hint that does not exist is found before a learner finds it."""
    for cell in cells.code(notebook):
        for method in ("check", "hint"):
            for id in cells.first_arguments(cell, method):
                try:
                    catalogue.find(id, path.stem)
                except LabError as error:
                    yield str(cell.id), f"lab.{method}({id!r}): {error}"


RULES = (exercise_cells, solutions, known_checks)
