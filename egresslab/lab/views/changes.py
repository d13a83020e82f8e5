"""What changed in the egress maps between two looks: rows that came, went, or say something else now.

Marked with a sign and a word as well as with a colour.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egresslab.lab.display import HTML, TEXT, Table, escape

if TYPE_CHECKING:
    from egresslab.lab.entries import Entry

HEADER = ("", "Node", "Source IP", "Destination CIDR", "Egress IP", "Gateway IP")
GROUNDS = {
    "+ added": "rgba(46,157,91,0.20)",
    "- removed": "rgba(217,83,79,0.20)",
    "~ changed": "rgba(217,138,31,0.22)",
    "  same": "transparent",
}
"""Grounds that let the page's text colour through, on light and on dark."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Two looks at the maps, compared row by row; shows every row with what became of it, changed ones first."""

    rows: tuple[tuple[str, ...], ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows were added, removed, changed, and stayed the same."""
        return {mark[2:]: sum(row[0] == mark for row in self.rows) for mark in GROUNDS}

    @property
    def caption(self) -> str:
        """In a sentence."""
        return "Egress entries: " + ", ".join(f"{number} {word}" for word, number in self.counts.items())

    def table(self) -> Table:
        """The rows that are not the same as before, as text."""
        return Table(self.caption, HEADER, tuple(row for row in self.rows if row[0] != "  same"))

    def __str__(self) -> str:
        return f"{self.caption}\n{self.table()}" if self.table() else self.caption

    def to_html(self) -> str:
        """Every row, with what changed on a ground of its own."""
        head = "".join(f'<th scope="col" style="{_CELL}">{escape(cell)}</th>' for cell in HEADER)
        body = "".join(
            f'<tr style="background:{GROUNDS[row[0]]}">'
            + "".join(f'<td style="{_CELL}{_struck(row, cell)}">{escape(cell)}</td>' for cell in row)
            + "</tr>"
            for row in self.rows
        )
        return (
            '<table class="egresslab-table" style="border-collapse:collapse;margin:0.4em 0;font-size:0.93em">'
            f'<caption style="text-align:left;opacity:0.8">{escape(self.caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {TEXT: str(self), HTML: self.to_html()}


_CELL = "text-align:left;padding:0.25em 1.1em 0.25em 0.4em;border-bottom:1px solid rgba(128,128,128,0.35);"


def _struck(row: tuple[str, ...], cell: str) -> str:
    return "text-decoration:line-through;" if row[0] == "- removed" and cell != row[0] else ""


def compare(before: Iterable[Entry], after: Iterable[Entry]) -> Changes:
    """What became of each row; a row is the same if node, source and destination are."""
    old = {_key(entry): _value(entry) for entry in before}
    new = {_key(entry): _value(entry) for entry in after}
    rows: dict[str, list[tuple[str, ...]]] = {mark: [] for mark in GROUNDS}
    for key, value in new.items():
        if key not in old:
            rows["+ added"].append(("+ added", *key, *value))
        elif old[key] != value:
            shown = (now if was == now else f"{was} → {now}" for was, now in zip(old[key], value, strict=True))
            rows["~ changed"].append(("~ changed", *key, *shown))
        else:
            rows["  same"].append(("  same", *key, *value))
    rows["- removed"] = [("- removed", *key, *value) for key, value in old.items() if key not in new]
    return Changes(tuple(row for mark in GROUNDS for row in rows[mark]))


def _key(entry: Entry) -> tuple[str, str, str]:
    return entry.node, str(entry.source), str(entry.destination)


def _value(entry: Entry) -> tuple[str, str]:
    return str(entry.egress), str(entry.gateway)
