"""Where the chapters and their solutions are: beside the package in a checkout, inside it in a wheel.

Looks at files only; kept free of everything that is slow to import, because every notebook's kernel asks.
"""

from __future__ import annotations

from pathlib import Path

from egresslab.errors import LabError

PACKAGE = Path(__file__).resolve().parents[1]
SOLUTIONS = "solutions"


def home() -> Path:
    """Where the chapters are; else `LabError`."""
    for place in (PACKAGE.parent / "labs", PACKAGE / "chapters"):
        if any(place.glob("*.ipynb")):
            return place
    raise LabError(
        "there are no chapters", object=str(PACKAGE.parent / "labs"), fix="install egresslab with its chapters"
    )


def number(chapter: str) -> str:
    """The number that a chapter's id begins with, such as `02`; empty for a notebook that is no chapter."""
    first = chapter.split("-", 1)[0]
    return first if first.isdigit() else ""


def solutions_of(chapter: str) -> Path | None:
    """The file with a chapter's solutions: beside the notebook that runs, else with the chapters; None if none."""
    name = f"chapter_{number(chapter)}.py"
    beside = Path.cwd() / SOLUTIONS / name
    found = beside if beside.is_file() else home() / SOLUTIONS / name
    return found if found.is_file() else None
