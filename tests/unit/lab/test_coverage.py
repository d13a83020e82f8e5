"""docs/coverage.md says where each scenario is shown; every row is held to the notebook it names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from egresslab.lab import locations

TABLE = Path(__file__).parents[3] / "docs" / "coverage.md"
TO_COME = "to come: "


@dataclass(frozen=True)
class Row:
    """One claim: `piece` is what the cell of the chapter must contain."""

    scenario: str
    chapter: str
    cell: str
    piece: str


def rows(text: str) -> list[Row]:
    """The claims of a table."""
    lines = [line.strip().strip("|") for line in text.splitlines() if re.match(r"\| [A-E] \|", line)]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [Row(scenario, chapter, cell, there.strip("`")) for _, scenario, chapter, cell, there in cells]


def wrong(row: Row, chapters: dict[str, dict[str, str]]) -> str:
    """What is false about a claim, or nothing; `chapters` has the source of each cell by number and id."""
    if row.chapter.startswith(TO_COME):
        number = row.chapter.removeprefix(TO_COME)
        return f"chapter {number} exists by now" if number in chapters else ""
    if row.chapter not in chapters:
        return f"there is no chapter {row.chapter!r}"
    if row.cell not in chapters[row.chapter]:
        return f"chapter {row.chapter} has no cell {row.cell!r}"
    if not row.piece or _plain(row.piece) not in _plain(chapters[row.chapter][row.cell]):
        return f"cell {row.cell} of chapter {row.chapter} does not contain {row.piece!r}"
    return ""


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.fixture(scope="module")
def chapters() -> dict[str, dict[str, str]]:
    found = {}
    for path in locations.home().glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        found[locations.number(path.stem)] = {str(cell.id): str(cell.source) for cell in notebook.cells}
    return found


def test_every_row_of_the_table_is_true(chapters: dict[str, dict[str, str]]) -> None:
    found = rows(TABLE.read_text())
    assert len(found) > 40
    assert [f"{row.scenario}: {said}" for row in found if (said := wrong(row, chapters))] == []


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("| A | x | 99 | a | `b` |", "no chapter '99'"),
        ("| A | x | 01 | nowhere | `b` |", "no cell 'nowhere'"),
        ("| A | x | 01 | move | `kubectl drain` |", "does not contain 'kubectl drain'"),
        ("| A | x | 01 | move | |", "does not contain ''"),
        ("| A | x | to come: 01 | | |", "chapter 01 exists by now"),
    ],
)
def test_a_false_claim_is_found(claim: str, said: str, chapters: dict[str, dict[str, str]]) -> None:
    [row] = rows(claim)
    assert said in wrong(row, chapters)


def test_a_claim_about_a_chapter_that_is_not_written_yet_may_wait(chapters: dict[str, dict[str, str]]) -> None:
    [row] = rows("| D | x | to come: 98 | | |")
    assert wrong(row, chapters) == ""
