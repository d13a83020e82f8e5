"""A drill as a line of time: for each kind of traffic when it was answered, and what was done meanwhile.

Time runs in steps; in each step a kind of traffic was answered, partly answered, or not at all. The text form uses one
character a step and stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from egresslab.lab.display import escape
from egresslab.lab.drills.gaps import MS
from egresslab.lab.drills.records import Protocol
from egresslab.lab.drills.result import DrillResult

WIDTH, LEFT, ROW, TOP = 800, 150, 26, 58
COLUMNS = 72
LABELS = {Protocol.UDP: "UDP", Protocol.ICMP: "ping", Protocol.TCP: "TCP open", Protocol.NEW: "TCP new"}
GOOD, BAD, OWNER = "#2e9d5b", "#d9534f", ("#3d84d6", "#c2701c", "#7d5bbe")
"""Contrast of at least 3:1 on white and on JupyterLab's dark background (WCAG 2.2, 1.4.11)."""


@dataclass(frozen=True, slots=True)
class Span:
    """What of the run is drawn, ns since the epoch: from a little before the first event to a little after all is
    well."""

    start: int
    end: int

    def part(self, at: int) -> float:
        """Where a time is, 0 to 1, within what is drawn."""
        return min(1.0, max(0.0, (at - self.start) / (self.end - self.start)))


def span(result: DrillResult) -> Span:
    """What is drawn: everything from a quarter before the first event to the end of the last gap or event, and a
    quarter more."""
    measured = result.measured
    first = result.events[0].begun
    ends = [event.done for event in result.events]
    ends += [loss.gap.end for loss in measured.losses.values() if loss.gap]
    length = max(max(ends) - first, 200 * MS)
    return Span(max(measured.began, first - length // 4), min(measured.ended, max(ends) + length // 4))


def description(result: DrillResult) -> str:
    """The picture in a sentence or two."""
    gaps = "; ".join(
        f"{LABELS[protocol]}: {result.at_ms(loss.gap.start):.0f} to {result.at_ms(loss.gap.end):.0f} ms"
        if loss.gap and loss.gap_ms >= 1
        else f"{LABELS[protocol]}: no gap"
        for protocol, loss in result.measured.losses.items()
    )
    events = "; ".join(f"{event.title} at {result.at_ms(event.begun):.0f} ms" for event in result.events)
    return f"{events}. Longest gaps: {gaps}."


def text(result: DrillResult) -> str:
    """`─` answered, `×` not answered, `▼` where something was done."""
    drawn = span(result)
    marks = [" "] * COLUMNS
    for event in result.events:
        marks[_column(drawn, event.begun)] = "▼"
    lines = [f"{'':<10}{''.join(marks)}".rstrip()]
    for protocol, loss in result.measured.losses.items():
        cells = ["─"] * COLUMNS
        if loss.gap and loss.gap_ms >= 1:
            for column in range(_column(drawn, loss.gap.start), _column(drawn, loss.gap.end) + 1):
                cells[column] = "×"
        lines.append(f"{LABELS[protocol]:<10}{''.join(cells)}")
    ends = f"{result.at_ms(drawn.start):.0f} ms", f"{result.at_ms(drawn.end):.0f} ms"
    lines.append(f"{'':<10}{ends[0]}{ends[1]:>{COLUMNS - len(ends[0])}}")
    lines += [f"{'':<10}▼ {event.title}, {_when(result, event.begun, event.done)}" for event in result.events]
    return "\n".join(lines)


def svg(result: DrillResult) -> str:
    """The picture."""
    drawn = span(result)
    rows = len(result.measured.losses)
    owners = result.measured.owners
    height = TOP + (rows + bool(owners)) * ROW + 34
    parts = [*_axis(result, drawn, height), *_rows(result, drawn)]
    if owners is not None:
        y = TOP + rows * ROW
        parts.append(_label("owner", y))
        known = list(dict.fromkeys(reign.hardware for reign in owners.reigns))
        for reign in owners.reigns:
            if reign.end > drawn.start and reign.start < drawn.end:
                colour = OWNER[known.index(reign.hardware) % len(OWNER)]
                parts.append(
                    _bar(drawn, reign.start, reign.end, y, colour, f"{reign.hardware} answers for the address")
                )
    for event in result.events:
        x = _x(drawn, event.begun)
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP - 14}" x2="{x:.1f}" y2="{height - 30}" stroke="currentColor" '
            f'stroke-dasharray="3 3"/><text x="{x + 4:.1f}" y="{TOP - 18}">{escape(event.title)}</text>'
        )
    said = escape(description(result))
    return (
        f'<svg class="egresslab-drill" role="img" aria-label="{said}" viewBox="0 0 {WIDTH} {height}" width="100%" '
        f'style="max-width:{WIDTH}px;color:inherit" font-family="system-ui, sans-serif" font-size="12" '
        f'fill="currentColor"><title>{said}</title>{"".join(parts)}</svg>'
    )


def document(result: DrillResult) -> str:
    """The picture as a file of its own, black on white."""
    name = 'xmlns="http://www.w3.org/2000/svg"'
    return svg(result).replace("<svg ", f"<svg {name} ", 1).replace("color:inherit", "color:#111;background:#fff", 1)


def _rows(result: DrillResult, drawn: Span) -> Iterator[str]:
    for index, (protocol, loss) in enumerate(result.measured.losses.items()):
        y = TOP + index * ROW
        yield _label(LABELS[protocol], y)
        yield _bar(drawn, drawn.start, drawn.end, y, GOOD, "answered")
        if loss.gap and loss.gap_ms >= 1:
            yield _bar(drawn, loss.gap.start, loss.gap.end, y, BAD, f"no answer for {loss.gap_ms:.0f} ms")
            x = (_x(drawn, loss.gap.start) + _x(drawn, loss.gap.end)) / 2
            yield f'<text x="{x:.1f}" y="{y - 2}" text-anchor="middle" font-weight="600">{loss.gap_ms:.0f} ms</text>'


def _axis(result: DrillResult, drawn: Span, height: int) -> Iterator[str]:
    step = _step((drawn.end - drawn.start) / MS)
    tick = -(-int(result.at_ms(drawn.start)) // step) * step
    while (at := result.events[0].begun + tick * MS) < drawn.end:
        x = _x(drawn, at)
        yield f'<line x1="{x:.1f}" y1="{height - 32}" x2="{x:.1f}" y2="{height - 26}" stroke="currentColor"/>'
        yield f'<text x="{x:.1f}" y="{height - 12}" text-anchor="middle" fill-opacity="0.8">{tick} ms</text>'
        tick += step


def _step(length_ms: float) -> int:
    return next((s for s in (20, 50, 100, 200, 500, 1000, 2000, 5000) if length_ms / s <= 9), 10_000)


def _x(drawn: Span, at: int) -> float:
    return LEFT + drawn.part(at) * (WIDTH - LEFT - 20)


def _column(drawn: Span, at: int) -> int:
    return min(COLUMNS - 1, int(drawn.part(at) * COLUMNS))


def _bar(drawn: Span, start: int, end: int, y: int, colour: str, said: str) -> str:
    x = _x(drawn, start)
    width = max(1.5, _x(drawn, end) - x)
    where = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="12"'
    return f'<rect {where} fill="{colour}"><title>{escape(said)}</title></rect>'


def _label(said: str, y: int) -> str:
    return f'<text x="{LEFT - 12}" y="{y + 11}" text-anchor="end">{escape(said)}</text>'


def _when(result: DrillResult, begun: int, done: int) -> str:
    return f"{result.at_ms(begun):.0f} to {result.at_ms(done):.0f} ms"
