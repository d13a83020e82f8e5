"""Showing things in a notebook, a terminal or a file: one value, several forms.

Whatever is shown has a text form that stands alone (screen readers, logs, diffs) and an HTML form that takes its
colours from JupyterLab's theme, with values that read well on light and dark when there is no theme.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import publish_display_data

TEXT = "text/plain"
HTML = "text/html"


def show(bundle: dict[str, Any]) -> None:
    """Publish a MIME bundle to the front end, or print its text form where there is none."""
    if get_ipython() is None:
        print(bundle[TEXT])
    else:
        publish_display_data(bundle)


@dataclass(frozen=True, slots=True)
class Silent:
    """Mixin for values that have shown themselves already: the last line of a cell does not show them again."""

    def _ipython_display_(self) -> None:
        """Nothing more to show."""


def escape(value: object) -> str:
    """Text safe inside HTML."""
    return html.escape(str(value))


@dataclass(frozen=True, slots=True)
class Table(Sequence[tuple[str, ...]]):
    """Rows of text under a header; shows as an HTML table, prints in columns, reads as a sequence of tuples."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self.rows)

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(_width(line[column]) for line in lines) for column in range(len(self.header))]
        text = "\n".join(
            "   ".join(cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        return text if self.rows else f"{text}\n(nothing)"

    def to_html(self) -> str:
        """The table as HTML, with its caption and with header cells marked as such."""
        head = "".join(f'<th scope="col" style="{_CELL}{_HEAD}">{escape(cell)}</th>' for cell in self.header)
        body = "".join(
            "<tr>" + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row) + "</tr>" for row in self.rows
        )
        if not self.rows:
            body = f'<tr><td colspan="{len(self.header)}" style="{_CELL}font-style:italic">nothing</td></tr>'
        return (
            f'<table class="egresslab-table" style="{_TABLE}">'
            f'<caption style="{_CAPTION}">{escape(self.caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {TEXT: str(self), HTML: self.to_html()}


_TABLE = "border-collapse:collapse;margin:0.4em 0;font-size:0.93em;"
_CAPTION = "text-align:left;caption-side:top;padding:0.2em 0;opacity:0.8;"
_CELL = "text-align:left;padding:0.25em 1.1em 0.25em 0.4em;border-bottom:1px solid rgba(128,128,128,0.35);"
_HEAD = "font-weight:600;"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
