"""The chapters' conventions that a machine can hold: a small rule for each, a cell and a remedy for each breach.

Rules look at one notebook file; they never run it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode, reader
from papermill.translators import PythonTranslator

from egresslab.errors import LabError
from egresslab.lab import cells, exercise_rules
from egresslab.lab.chapters import ENVIRONMENTS, NEEDS
from egresslab.lab.exercise_rules import Breach

MAX_LINES = 12
MAX_MANIFEST_LINES = 24
MAX_CODE_CELLS = 30
TAGS = frozenset({"parameters", "check", "exercise", "solution", "drill", "cleanup", "skip-execution", "hide-input"})
METADATA = ("id", "title", "minutes", "environments", "requires")
OPTIONAL_METADATA = ("topology",)
FIXED_PARAMETERS = ("environment", "lab_name", "mode", "timeout_s")
"""Parameters that every chapter has, because every runner passes them."""
READABLE_ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RANDOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4})*|\d+")
HEADING = re.compile(r"^(#{1,6})\s+\S", re.MULTILINE)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\(")
IMG = re.compile(r"<img\b(?P<attributes>[^>]*)>", re.IGNORECASE)
SHELL = re.compile(r"^\s*(!|%%(bash|sh|script|!)|%(sx|system)\b)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Problem:
    """One breach: the rule's name, the cell's id (empty for the notebook as a whole), what is wrong and what to do."""

    path: Path
    cell: str
    rule: str
    message: str

    def __str__(self) -> str:
        where = f"{self.path}:{self.cell}" if self.cell else str(self.path)
        return f"{where}: {self.rule}: {self.message}"


def lint(path: Path) -> list[Problem]:
    """Every breach in a notebook; `LabError` for a file that is no notebook."""
    try:
        # The plain reader: nbformat.read would mend ids that occur twice, and the point is to find them.
        notebook = reader.reads(path.read_text())
    except (OSError, ValueError, AttributeError, reader.NotJSONError) as error:
        raise LabError(f"not a notebook: {error}", object=str(path)) from error
    version = (notebook.get("nbformat", 0), notebook.get("nbformat_minor", 0))
    if version < (4, 5):
        return [Problem(path, "", "format", f"is format {version[0]}.{version[1]}; cells need ids, so 4.5 or later")]
    problems = [(rule.__name__, breach) for rule in RULES for breach in rule(notebook)]
    problems += [(rule.__name__, breach) for rule in exercise_rules.RULES for breach in rule(notebook, path)]
    if notebook.metadata.get("lab", {}).get("id") != path.stem:
        problems.append(("metadata", ("", f"has another lab.id than its file's name, {path.stem}")))
    return [Problem(path, cell, rule.replace("_", "-"), message) for rule, (cell, message) in problems]


def no_outputs(notebook: NotebookNode) -> Iterator[Breach]:
    """What a run printed is an artefact, not source."""
    if "papermill" in notebook.metadata or "widgets" in notebook.metadata:
        yield "", "carries metadata of a run; nbstripout --keep-id removes it"
    for cell in cells.code(notebook):
        if cell.outputs or cell.execution_count is not None:
            yield cell.id, "carries outputs or a count; nbstripout --keep-id removes them"


def readable_ids(notebook: NotebookNode) -> Iterator[Breach]:
    """Ids are how reports and diffs name a cell."""
    seen: set[str] = set()
    for cell in notebook.cells:
        if cell.id in seen:
            yield cell.id, "is the id of two cells"
        seen.add(cell.id)
        if not READABLE_ID.fullmatch(cell.id) or RANDOM_ID.fullmatch(cell.id):
            yield cell.id, "is no readable id; words joined by hyphens, such as check-source"


def metadata(notebook: NotebookNode) -> Iterator[Breach]:
    """The runner reads what a chapter needs before it starts it."""
    lab = notebook.metadata.get("lab", {})
    for key in METADATA:
        if key not in lab:
            yield "", f"has no metadata lab.{key}"
    for key in sorted(set(lab) - {*METADATA, *OPTIONAL_METADATA}):
        yield "", f"has unknown metadata lab.{key}"
    for name in lab.get("environments", ()):
        if name not in ENVIRONMENTS:
            yield "", f"runs on {name!r}; known are {', '.join(ENVIRONMENTS)}"
    for need in lab.get("requires", ()):
        if need.partition(">=")[0] not in NEEDS:
            yield "", f"requires {need!r}; known are {', '.join(NEEDS)}"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "", "has another kernel than python3"


def parameters(notebook: NotebookNode) -> Iterator[Breach]:
    """One parameters cell, first among the code, of annotated constants that each say what they are."""
    tagged = [cell for cell in cells.code(notebook) if "parameters" in cells.tags(cell)]
    if len(tagged) != 1:
        yield "", f"has {len(tagged)} cells tagged parameters, not one"
        return
    cell = tagged[0]
    if cell is not cells.code(notebook)[0]:
        yield cell.id, "is not the first code cell"
    names = set()
    for node in cells.statements(cell):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            yield cell.id, f"line {node.lineno} is no annotated constant (name: type = value  # what it is)"
            continue
        names.add(node.target.id)
        if node.value is None or not _constant(node.value):
            yield cell.id, f"{node.target.id} is computed; only constants can be replaced from outside"
        if "#" not in cell.source.splitlines()[node.lineno - 1]:
            yield cell.id, f"{node.target.id} has no comment that says what it is"
    known = {parameter.name for parameter in PythonTranslator.inspect(cell)}
    for name in sorted(names - known):
        yield cell.id, f"{name} is not understood by papermill; keep = and quotes out of its comment"
    for name in FIXED_PARAMETERS:
        if name not in names:
            yield cell.id, f"has no parameter {name}"


def headings(notebook: NotebookNode) -> Iterator[Breach]:
    """One H1 at the top, and no level left out on the way down."""
    level, titles = 0, 0
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for found in HEADING.finditer(FENCE.sub("", cell.source)):
            depth = len(found[1])
            titles += depth == 1
            if depth > level + 1:
                yield cell.id, f"goes from heading level {level} to {depth}"
            level = depth
    if titles != 1:
        yield "", f"has {titles} headings of level 1, not one"
    if not notebook.cells or not notebook.cells[0].source.startswith("# "):
        yield "", "does not begin with its title"


def alt_text(notebook: NotebookNode) -> Iterator[Breach]:
    """A picture that is not described is not there for everybody."""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        if any(not image["alt"].strip() for image in IMAGE.finditer(cell.source)):
            yield cell.id, "has a picture without alternative text"
        if any(not re.search(r'alt="[^"]+"', image["attributes"]) for image in IMG.finditer(cell.source)):
            yield cell.id, "has an <img> without alt"


def no_shell(notebook: NotebookNode) -> Iterator[Breach]:
    """A failing `!command` passes in silence; lab.kubectl and lab.exec do not."""
    for cell in cells.code(notebook):
        if SHELL.search(cell.source):
            yield cell.id, "runs a shell; use lab.kubectl or lab.exec, which fail when the command does"


def known_tags(notebook: NotebookNode) -> Iterator[Breach]:
    """A misspelt tag does nothing, silently."""
    for cell in notebook.cells:
        for tag in cells.tags(cell):
            if tag not in TAGS:
                yield cell.id, f"has the unknown tag {tag!r}; known are {', '.join(sorted(TAGS))}"
        if cell.cell_type == "code" and "lab.check(" in cell.source and "check" not in cells.tags(cell):
            yield cell.id, "checks something but is not tagged check"


def short_cells(notebook: NotebookNode) -> Iterator[Breach]:
    """A cell that fits the eye does one thing; a manifest in it is data to read, and counts apart."""
    code = cells.code(notebook)
    if len(code) > MAX_CODE_CELLS:
        yield "", f"has {len(code)} code cells; {MAX_CODE_CELLS} are enough for one sitting"
    for cell in code:
        lines = len(cell.source.splitlines())
        manifest = _manifest_lines(cell)
        if lines - manifest > MAX_LINES:
            yield cell.id, f"has {lines - manifest} lines of code; {MAX_LINES} are enough"
        if manifest > MAX_MANIFEST_LINES:
            yield cell.id, f"has a manifest of {manifest} lines; {MAX_MANIFEST_LINES} are enough"


RULES: tuple[Callable[[NotebookNode], Iterator[Breach]], ...] = (
    no_outputs,
    readable_ids,
    metadata,
    parameters,
    headings,
    alt_text,
    no_shell,
    known_tags,
    short_cells,
)


def _manifest_lines(cell: NotebookNode) -> int:
    """Lines inside strings that go over more than one line."""
    strings = [
        node
        for statement in cells.statements(cell)
        for node in ast.walk(statement)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]
    # The parts of an f-string are nodes of their own; lines are counted once.
    inside = {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno))}
    return len(inside)


def _constant(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True
