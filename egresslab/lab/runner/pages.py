"""A suite's results for people: an index and a page for each chapter, without scripts and without a network.

Pages follow the reader's light or dark preference by style sheet alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]

from egresslab.lab.runner.execution import ChapterRun
from egresslab.lab.runner.judge import Result

MARKS = {Result.PASSED: "✔", Result.SKIPPED: "–"}
WIDGET = "application/vnd.jupyter.widget-view+json"
LIGHT, DARK = "friendly", "github-dark"
"""Pygments styles; each reads well on its ground."""


def write_pages(directory: Path, runs: Sequence[ChapterRun], *, environment: str, started: datetime) -> Path:
    """Write index.html and a page for each chapter that was executed; returns the index."""
    templates = Environment(loader=PackageLoader("egresslab.lab.runner"), autoescape=select_autoescape(["html", "j2"]))
    style = Markup(_style())  # our own sheet and Pygments', nothing from outside
    views = [_view(run) for run in runs]
    shown = [(run, view) for run, view in zip(runs, views, strict=True) if run.executed]
    for number, (run, view) in enumerate(shown):
        assert run.executed is not None
        page = templates.get_template("chapter.html.j2").render(
            title=view["title"],
            style=style,
            run=view,
            previous=shown[number - 1][1] if number else None,
            next=shown[number + 1][1] if number + 1 < len(shown) else None,
            body=Markup(_body(nbformat.read(run.executed, as_version=4))),  # notebooks are ours; their HTML is meant
        )
        (directory / view["page"]).write_text(page)
    index = directory / "index.html"
    index.write_text(
        templates.get_template("index.html.j2").render(
            title="Chapters",
            style=style,
            summary=summary(runs),
            environment=environment,
            started=f"{started:%Y-%m-%d %H:%M:%S %Z}",
            runs=views,
        )
    )
    return index


def summary(runs: Sequence[ChapterRun]) -> str:
    """One sentence: how many chapters came out how."""
    counts = {result: sum(run.result is result for run in runs) for result in Result}
    said = ", ".join(f"{count} {result.value}" for result, count in counts.items() if count) or "nothing ran"
    return f"{len(runs)} chapters: {said}."


def _view(run: ChapterRun) -> dict[str, Any]:
    return {
        "id": run.chapter.id,
        "title": run.chapter.title,
        "result": run.result.value,
        "mark": MARKS.get(run.result, "✘"),
        "seconds": run.seconds,
        "reason": run.reason,
        "checks": run.checks,
        "passed": sum(check["outcome"] == "pass" for check in run.checks),
        "fault": run.fault,
        "page": f"{run.chapter.id}.html" if run.executed else "",
    }


def _body(notebook: NotebookNode) -> str:
    exporter = HTMLExporter(
        template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True, anchor_link_text=""
    )
    body: str
    body, _ = exporter.from_notebook_node(_presentable(notebook))
    return body


def _presentable(notebook: NotebookNode) -> NotebookNode:
    """Without the banners that papermill adds around a failing cell, and with the still forms of live views."""
    cells = [cell for cell in notebook.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])]
    for output in (output for cell in cells for output in cell.get("outputs", ())):
        output.get("data", {}).pop(WIDGET, None)
    return NotebookNode({**notebook, "cells": cells})


def _style() -> str:
    own = (Path(__file__).parent / "templates" / "style.css").read_text()
    light = HtmlFormatter(style=LIGHT).get_style_defs(".highlight")
    dark = HtmlFormatter(style=DARK).get_style_defs(".highlight")
    plain = ".highlight { background: none !important; }"
    return f"{own}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{plain}"
