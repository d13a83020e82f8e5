"""How a verdict, a hint and a chapter's summary look: the same content as text, HTML and data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from egresslab.lab.checks.model import Check, Outcome, Verdict
from egresslab.lab.display import HTML, TEXT, Table, escape

MIME = "application/vnd.egresslab.check+json"

UNSOLVED_MIME = "application/vnd.egresslab.unsolved+json"
"""What a check said before its exercise was solved; apart from verdicts, because here red is what is wanted."""

COLOURS = {
    Outcome.PASS: "#2e9d5b",
    Outcome.FAIL: "#d9534f",
    Outcome.NOT_ATTEMPTED: "#8a8f98",
    Outcome.NOT_APPLICABLE: "#8a8f98",
    Outcome.ERROR: "#d98a1f",
}
"""Border colours with contrast on white and on black; the word beside them says the same."""


def bundle(verdict: Verdict) -> dict[str, Any]:
    """MIME bundle of a verdict."""
    return {MIME: verdict.to_json(), TEXT: text(verdict), HTML: html(verdict)}


def unsolved_bundle(verdict: Verdict) -> dict[str, Any]:
    """MIME bundle of a verdict before the exercise is solved."""
    line = f"before the exercise is solved: {verdict.outcome.value}: {verdict.title}; observed {verdict.observed}"
    return {UNSOLVED_MIME: verdict.to_json(), TEXT: line, HTML: f'<div style="opacity:0.75">{escape(line)}</div>'}


def _lines(verdict: Verdict) -> list[tuple[str, str]]:
    lines = [("expected", verdict.expected), ("observed", verdict.observed)]
    if verdict.command:
        lines.append(("see it", verdict.command))
    if verdict.hint:
        lines.append(("hint", f'{verdict.hint} (more: lab.hint("{verdict.id}"))'))
    return lines


def text(verdict: Verdict) -> str:
    """Text form."""
    head = f"{verdict.outcome.mark} {verdict.outcome.value}: {verdict.title} [{verdict.id}, {verdict.seconds:.1f} s]"
    return "\n".join([head, *(f"    {name + ':':<10} {value}" for name, value in _lines(verdict))])


def html(verdict: Verdict) -> str:
    """HTML form; without a style sheet, so that it looks the same wherever the notebook is opened."""
    colour = COLOURS[verdict.outcome]
    rows = "".join(
        f'<div style="display:flex;gap:0.8em"><span style="min-width:5.5em;opacity:0.75">{name}</span>'
        f"<span>{_code(value) if name == 'see it' else escape(value)}</span></div>"
        for name, value in _lines(verdict)
    )
    return (
        f'<div class="egresslab-check" role="status" style="border-left:5px solid {colour};padding:0.45em 0.9em;'
        'margin:0.3em 0;background:rgba(128,128,128,0.08);font-size:0.95em;line-height:1.5">'
        f"<div><strong>{verdict.outcome.mark} {verdict.outcome.value}</strong> · {escape(verdict.title)} "
        f'<span style="opacity:0.65">({escape(verdict.id)}, {verdict.seconds:.1f} s)</span></div>{rows}</div>'
    )


def hint_bundle(check: Check, step: int) -> dict[str, str]:
    """MIME bundle of one hint; `step` counts from 1."""
    head = f"hint {step} of {len(check.hints)}"
    body = check.hints[step - 1]
    return {
        TEXT: f"{head}: {body}",
        HTML: (
            '<div class="egresslab-hint" style="border-left:5px solid #4a86d9;padding:0.45em 0.9em;margin:0.3em 0;'
            f'background:rgba(128,128,128,0.08)"><strong>{head}</strong> · {escape(body)}</div>'
        ),
    }


def summary(verdicts: Iterable[Verdict]) -> Table:
    """One line for each check that ran, the last verdict of each id and subject."""
    last = {(verdict.id, tuple(verdict.subject.items())): verdict for verdict in verdicts}
    rows = tuple(
        (f"{verdict.outcome.mark} {verdict.outcome.value}", verdict.title, verdict.observed)
        for verdict in last.values()
    )
    return Table("What the packets said", ("outcome", "claim", "observed"), rows)


def _code(command: str) -> str:
    return f"<code>{escape(command)}</code>"
