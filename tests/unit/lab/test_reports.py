"""What a run leaves for machines and people: results.json, JUnit XML, pages without scripts and without a network."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest
from junitparser import JUnitXml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from egresslab.lab.chapters import Chapter
from egresslab.lab.runner import pages, records, suite
from egresslab.lab.runner.execution import ChapterRun
from egresslab.lab.runner.judge import Fault, Result

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CHECK = {
    "id": "source-is-node",
    "title": "the outside sees the address of the pod's node",
    "outcome": "pass",
    "expected": "192.168.60.11",
    "observed": "192.168.60.11",
    "seconds": 0.25,
}


def make_run(directory: Path, id: str, result: Result, **more: object) -> ChapterRun:
    chapter = Chapter(id, directory / f"{id}.ipynb", f"Title of {id}", 5, ("netns",), (), "", {})
    executed = None
    if result is not Result.SKIPPED:
        (directory / "executed").mkdir(exist_ok=True)
        executed = directory / "executed" / f"{id}.ipynb"
        table = new_output(
            "display_data", data={"text/html": "<table><tr><td>cell</td></tr></table>", "text/plain": "t"}
        )
        notebook = new_notebook(
            cells=[
                new_markdown_cell(f"# {id}\n\nSome `code` & text.", id="goal"),
                new_code_cell("print('<hello>')", id="step", outputs=[new_output("stream", text="<hello>\n"), table]),
            ]
        )
        nbformat.write(notebook, executed)
    return ChapterRun(chapter, result, str(more.pop("reason", "")), 1.5, executed=executed, **more)  # type: ignore[arg-type]


@pytest.fixture
def runs(tmp_path: Path) -> list[ChapterRun]:
    fault = Fault("check-b", "lab.check('b')", "observed <nothing>")
    failed = {**CHECK, "outcome": "fail", "observed": "172.18.18.12"}
    return [
        make_run(tmp_path, "01-a", Result.PASSED, checks=(CHECK,)),
        make_run(tmp_path, "02-b", Result.FAILED, checks=(CHECK, failed), reason="check b: fail", fault=fault),
        make_run(tmp_path, "03-c", Result.SKIPPED, reason="needs root"),
        make_run(tmp_path, "04-d", Result.LEAKED, reason="left behind: Namespace x", leaked=("Namespace x",)),
    ]


def test_results_keep_every_checks_evidence(runs: list[ChapterRun], tmp_path: Path) -> None:
    records.write_json(tmp_path / "results.json", runs, environment="netns", started=STARTED)
    content = json.loads((tmp_path / "results.json").read_text())
    assert [chapter["result"] for chapter in content["chapters"]] == ["passed", "failed", "skipped", "leaked"]
    assert content["chapters"][1]["checks"][1]["observed"] == "172.18.18.12"
    assert content["chapters"][1]["executed"] == "executed/02-b.ipynb"
    assert content["chapters"][3]["leaked"] == ["Namespace x"]


def test_junit_counts_what_failed(runs: list[ChapterRun], tmp_path: Path) -> None:
    records.write_junit(tmp_path / "junit.xml", runs)
    document = JUnitXml.fromfile(str(tmp_path / "junit.xml"))
    counted = {suite.name: (suite.tests, suite.failures, suite.skipped) for suite in document}
    assert counted == {"01-a": (2, 0, 0), "02-b": (3, 2, 0), "03-c": (1, 0, 1), "04-d": (1, 1, 0)}


def test_pages_need_neither_scripts_nor_a_network(runs: list[ChapterRun], tmp_path: Path) -> None:
    pages.write_pages(tmp_path, runs, environment="netns", started=STARTED)
    for page in ("index.html", "01-a.html", "02-b.html", "04-d.html"):
        text = (tmp_path / page).read_text()
        assert "<script" not in text
        assert not re.search(r"""(src|href)=["'](https?:)?//|@import|url\(""", text)
        assert "prefers-color-scheme: dark" in text
    assert not (tmp_path / "03-c.html").exists()


def test_the_index_tells_results_reasons_and_the_failing_cell(runs: list[ChapterRun], tmp_path: Path) -> None:
    text = pages.write_pages(tmp_path, runs, environment="netns", started=STARTED).read_text()
    for part in (
        "1 passed, 1 failed, 1 skipped, 1 leaked",
        "needs root",
        "check-b",
        "observed &lt;nothing&gt;",
        "1 of 2",
    ):
        assert part in text
    assert 'href="02-b.html"' in text


def test_a_page_shows_prose_code_and_outputs(runs: list[ChapterRun], tmp_path: Path) -> None:
    pages.write_pages(tmp_path, runs, environment="netns", started=STARTED)
    text = (tmp_path / "01-a.html").read_text()
    for part in ("Some <code>code</code> &amp; text.", "&lt;hello&gt;", "<table><tr><td>cell</td></tr></table>"):
        assert part in text
    assert 'href="02-b.html"' in text


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([Result.PASSED, Result.PASSED], 0),
        ([Result.PASSED, Result.SKIPPED], 0),
        ([Result.PASSED, Result.LEAKED], 1),
        ([Result.PASSED, Result.TIMEOUT], 1),
        ([Result.SKIPPED], 2),
        ([], 2),
    ],
)
def test_exit_codes(results: list[Result], code: int, tmp_path: Path) -> None:
    made = [make_run(tmp_path, f"0{n}-x", result) for n, result in enumerate(results)]
    assert suite.exit_code(made) == code
