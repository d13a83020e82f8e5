"""Each convention of chapters is broken once, and the lint names the breach; the chapters themselves keep them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from egresslab.errors import LabError
from egresslab.lab import chapters, lint

PARAMETERS = """\
environment: str = "netns"  # where
lab_name: str = "default"  # which
mode: str = "learn"  # how
timeout_s: int = 60  # how long
"""


SOLUTIONS = """
def no_entries(lab):
    '''Because.'''
    return "client"
"""


def good() -> NotebookNode:
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Do a thing\n\nText.", id="goal"),
            new_code_cell(PARAMETERS, id="params", metadata={"tags": ["parameters"]}),
            new_code_cell("1 + 1", id="step-one"),
            new_markdown_cell("## Part\n\n```\n# a comment, no heading\n```", id="part"),
            new_code_cell('lab.check("no-entries")', id="check-a", metadata={"tags": ["check"]}),
            new_markdown_cell("## Exercise: do it", id="about-no-entries"),
            new_code_cell("mine = None", id="exercise-no-entries", metadata={"tags": ["exercise"]}),
            new_code_cell(
                'mine = lab.solve("no-entries", mine)', id="solve-no-entries", metadata={"tags": ["solution"]}
            ),
            new_code_cell('lab.check("no-entries", pod=mine)', id="check-no-entries", metadata={"tags": ["check"]}),
        ]
    )
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata.lab = {"id": "09-x", "title": "X", "minutes": 1, "environments": ["netns"], "requires": []}
    return notebook


def problems(notebook: NotebookNode, directory: Path) -> list[str]:
    path = directory / "09-x.ipynb"
    nbformat.write(notebook, path)
    (directory / "solutions").mkdir(exist_ok=True)
    (directory / "solutions" / "chapter_09.py").write_text(SOLUTIONS)
    return [f"{problem.rule} {problem.cell}" for problem in lint.lint(path)]


def outputs(notebook: NotebookNode) -> None:
    notebook.cells[2].outputs = [new_output("stream", text="2")]


def count(notebook: NotebookNode) -> None:
    notebook.cells[2].execution_count = 3


def run_metadata(notebook: NotebookNode) -> None:
    notebook.metadata.papermill = {}


def random_id(notebook: NotebookNode) -> None:
    notebook.cells[2].id = "4fa31c09"


def numbered_id(notebook: NotebookNode) -> None:
    notebook.cells[2].id = "2"


def no_metadata(notebook: NotebookNode) -> None:
    del notebook.metadata.lab["minutes"]


def kernel(notebook: NotebookNode) -> None:
    notebook.metadata.kernelspec["name"] = "julia"


def no_parameters(notebook: NotebookNode) -> None:
    notebook.cells[1].metadata.tags = []


def bare_parameter(notebook: NotebookNode) -> None:
    notebook.cells[1].source += "other = 1  # what\n"


def computed_parameter(notebook: NotebookNode) -> None:
    notebook.cells[1].source += "other: int = timeout_s * 2  # what\n"


def silent_parameter(notebook: NotebookNode) -> None:
    notebook.cells[1].source += "other: int = 1\n"


def missing_parameter(notebook: NotebookNode) -> None:
    notebook.cells[1].source = PARAMETERS.replace('mode: str = "learn"  # how\n', "")


def unreadable_parameter(notebook: NotebookNode) -> None:
    notebook.cells[1].source += 'other: str = "a"  # with b=c: somebody\'s\n'


def late_parameters(notebook: NotebookNode) -> None:
    notebook.cells.insert(1, new_code_cell("0", id="early"))


def second_title(notebook: NotebookNode) -> None:
    notebook.cells[3].source = "# Another"


def skipped_level(notebook: NotebookNode) -> None:
    notebook.cells[3].source = "### Deep"


def no_title(notebook: NotebookNode) -> None:
    notebook.cells[0].source = "Text."


def mute_picture(notebook: NotebookNode) -> None:
    notebook.cells[3].source = "## Part\n\n![](a.png)"


def mute_img(notebook: NotebookNode) -> None:
    notebook.cells[3].source = '## Part\n\n<img src="a.png">'


def shell(notebook: NotebookNode) -> None:
    notebook.cells[2].source = "!kubectl get pods"


def shell_magic(notebook: NotebookNode) -> None:
    notebook.cells[2].source = "%%bash\nkubectl get pods"


def odd_tag(notebook: NotebookNode) -> None:
    notebook.cells[2].metadata.tags = ["chek"]


def untagged_check(notebook: NotebookNode) -> None:
    notebook.cells[4].metadata.tags = []


def long_cell(notebook: NotebookNode) -> None:
    notebook.cells[2].source = "\n".join("x = 1" for _ in range(13))


def long_manifest(notebook: NotebookNode) -> None:
    notebook.cells[2].source = 'x = """\n' + "a\n" * 30 + '"""'


def many_cells(notebook: NotebookNode) -> None:
    notebook.cells += [new_code_cell("1", id=f"more-{n}") for n in range(30)]


def other_id(notebook: NotebookNode) -> None:
    notebook.metadata.lab["id"] = "08-x"


def moon(notebook: NotebookNode) -> None:
    notebook.metadata.lab["environments"] = ["moon"]


def odd_need(notebook: NotebookNode) -> None:
    notebook.metadata.lab["requires"] = ["luck"]


def odd_metadata(notebook: NotebookNode) -> None:
    notebook.metadata.lab["backends"] = ["netns"]


def untagged_exercise(notebook: NotebookNode) -> None:
    notebook.cells[6].metadata.tags = []


def stray_solution(notebook: NotebookNode) -> None:
    notebook.cells[2].metadata.tags = ["solution"]


def separated(notebook: NotebookNode) -> None:
    notebook.cells.insert(8, new_code_cell("1", id="between"))


def solved_in_place(notebook: NotebookNode) -> None:
    notebook.cells[7].source = 'lab.apply("the solution")'


def other_check(notebook: NotebookNode) -> None:
    notebook.cells[8].source = 'lab.check("source-is-node", pod=mine)'


def unknown_check(notebook: NotebookNode) -> None:
    notebook.cells[4].source = 'lab.check("no-entriez")'


def unsolved_exercise(notebook: NotebookNode) -> None:
    for cell, prefix in zip(notebook.cells[5:], ("about", "exercise", "solve", "check"), strict=True):
        cell.id = f"{prefix}-another"


BREACHES: list[tuple[Callable[[NotebookNode], None], str]] = [
    (outputs, "no-outputs step-one"),
    (count, "no-outputs step-one"),
    (run_metadata, "no-outputs "),
    (random_id, "readable-ids 4fa31c09"),
    (numbered_id, "readable-ids 2"),
    (no_metadata, "metadata "),
    (kernel, "metadata "),
    (no_parameters, "parameters "),
    (bare_parameter, "parameters params"),
    (computed_parameter, "parameters params"),
    (silent_parameter, "parameters params"),
    (missing_parameter, "parameters params"),
    (unreadable_parameter, "parameters params"),
    (late_parameters, "parameters params"),
    (second_title, "headings "),
    (skipped_level, "headings part"),
    (no_title, "headings "),
    (mute_picture, "alt-text part"),
    (mute_img, "alt-text part"),
    (shell, "no-shell step-one"),
    (shell_magic, "no-shell step-one"),
    (odd_tag, "known-tags step-one"),
    (untagged_check, "known-tags check-a"),
    (long_cell, "short-cells step-one"),
    (long_manifest, "short-cells step-one"),
    (many_cells, "short-cells "),
    (other_id, "metadata "),
    (moon, "metadata "),
    (odd_need, "metadata "),
    (odd_metadata, "metadata "),
    (untagged_exercise, "exercise-cells exercise-no-entries"),
    (stray_solution, "exercise-cells step-one"),
    (separated, "exercise-cells exercise-no-entries"),
    (solved_in_place, "exercise-cells solve-no-entries"),
    (other_check, "exercise-cells check-no-entries"),
    (unknown_check, "known-checks check-a"),
    (unsolved_exercise, "solutions exercise-another"),
    (unsolved_exercise, "solutions "),
]


def test_a_good_notebook_has_no_problems(tmp_path: Path) -> None:
    assert problems(good(), tmp_path) == []


@pytest.mark.parametrize(("breach", "expected"), BREACHES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_breach_is_named(breach: Callable[[NotebookNode], None], expected: str, tmp_path: Path) -> None:
    notebook = good()
    breach(notebook)
    assert expected in problems(notebook, tmp_path)


def test_two_cells_of_one_id(tmp_path: Path) -> None:
    path = tmp_path / "09-x.ipynb"
    path.write_text(nbformat.writes(good()).replace('"step-one"', '"goal"'))
    assert f"{path}:goal: readable-ids: is the id of two cells" in [str(problem) for problem in lint.lint(path)]


def test_exercises_without_a_file_of_solutions(tmp_path: Path) -> None:
    path = tmp_path / "09-x.ipynb"
    nbformat.write(good(), path)
    [problem] = lint.lint(path)
    assert str(problem) == f"{path}: solutions: has exercises, and there is no solutions/chapter_09.py"


def test_a_manifest_counts_apart_from_code(tmp_path: Path) -> None:
    notebook = good()
    notebook.cells[2].source = 'policy = f"""\n' + "a: {x}\n" * 20 + '"""\nlab.apply(policy)'
    assert problems(notebook, tmp_path) == []


@pytest.mark.parametrize("text", ["no JSON", "[]"])
def test_a_file_that_is_no_notebook(text: str, tmp_path: Path) -> None:
    path = tmp_path / "09-x.ipynb"
    path.write_text(text)
    with pytest.raises(LabError, match="not a notebook"):
        lint.lint(path)


def test_cells_without_ids_are_too_old(tmp_path: Path) -> None:
    path = tmp_path / "09-x.ipynb"
    path.write_text('{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": []}')
    assert [problem.rule for problem in lint.lint(path)] == ["format"]


@pytest.mark.parametrize("chapter", chapters.discover(chapters.home()), ids=lambda chapter: chapter.id)
def test_the_chapters_keep_the_conventions(chapter: chapters.Chapter) -> None:
    assert [str(problem) for problem in lint.lint(chapter.path)] == []
