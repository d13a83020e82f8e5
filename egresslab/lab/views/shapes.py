"""The few shapes that views are drawn with, as SVG text."""

from __future__ import annotations

from egresslab.lab.display import escape

COLOURS = ("#3d84d6", "#c2701c", "#7d5bbe", "#2e9d5b")
"""One for each network; contrast of at least 3:1 on white and on JupyterLab's dark background (WCAG 2.2, 1.4.11)."""
GOOD, BAD = "#2e9d5b", "#d9534f"


def picture(name: str, said: str, width: int, height: int, parts: str) -> str:
    """The whole; `said` is the picture in words, for whoever does not see it."""
    return (
        f'<svg class="egresslab-{name}" role="img" aria-label="{escape(said)}" viewBox="0 0 {width} {height}" '
        f'width="100%" style="max-width:{width}px;color:inherit" font-family="system-ui, sans-serif" font-size="13" '
        f'fill="currentColor"><title>{escape(said)}</title>{parts}</svg>'
    )


def figure(picture: str, table: str) -> str:
    """A picture with the same as a table below it, folded."""
    words = f"<details><summary>the same as a table</summary>{table}</details>"
    return f"<figure style='margin:0.5em 0'>{picture}{words}</figure>"


def box(x: int, y: int, width: int, height: int) -> str:
    """An outlined box."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="currentColor" fill-opacity="0.04" '
        'stroke="currentColor" stroke-opacity="0.55"/>'
    )


def pill(x: int, y: int, width: int, height: int) -> str:
    """A filled, rounded box without an outline."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="9" fill="currentColor" fill-opacity="0.09"/>'


def line(x1: int, y1: int, x2: int, y2: int, colour: str, *, dashed: bool = False) -> str:
    """A thin line."""
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="1.5"{dash}/>'


def text(
    x: int, y: int, said: str, *, anchor: str = "start", size: int = 13, opacity: float = 1.0, bold: bool = False
) -> str:
    """A line of text."""
    weight = ' font-weight="600"' if bold else ""
    attributes = f'x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill-opacity="{opacity:g}"{weight}'
    return f"<text {attributes}>{escape(said)}</text>"


def route(points: list[tuple[int, int]], colour: str, said: str, *, arrow: bool = True, dashed: bool = False) -> str:
    """A thick, rounded way through points, with an arrow's head at its end; `said` is shown when pointed at."""
    way = f"M{points[0][0]} {points[0][1]}" + "".join(f" L{x} {y}" for x, y in points[1:])
    dash = ' stroke-dasharray="7 5"' if dashed else ""
    path = (
        f'<path class="egresslab-route" d="{way}" fill="none" stroke="{colour}" stroke-width="2.5" '
        f'stroke-linejoin="round"{dash}/>'
    )
    (x, y), (before, _) = points[-1], points[-2]
    tip = 9 if x >= before else -9
    head = f'<path d="M{x} {y} l{-tip} -5 l0 10 z" fill="{colour}"/>' if arrow else cross(x, y)
    return f"<g>{path}{head}<title>{escape(said)}</title></g>"


def cross(x: int, y: int) -> str:
    """Where something ends that should not."""
    return f'<path d="M{x - 6} {y - 6} l12 12 m0 -12 l-12 12" stroke="{BAD}" stroke-width="3" fill="none"/>'
