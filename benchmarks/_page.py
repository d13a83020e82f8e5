"""What benchmarks printed, as one HTML page: figures in tables, and a plot for every part whose shape says what it is.

Three shapes are known: a spread (`p50`, `p99`, `max` and the like), named contenders side by side (numbers that share a
dictionary with `egresslab`, or chapters), and growth (numbers by size).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

INK, OURS, OTHERS = "#7d8590", "#0ca5bf", "#adb5bd"
"""Read well on white and on black."""
SPREAD = {"p50", "p99", "max"}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Egresslab: benchmarks</title>
<style>
  :root { color-scheme: light dark; --ink: #24292f; --soft: #57606a; --ground: #fff; --line: #d0d7de }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e6edf3; --soft: #8d96a0; --ground: #0d1117; --line: #30363d }
  }
  body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground) }
  body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
  code, td { font-family: ui-monospace, monospace; font-size: .85rem } p.soft, th { color: var(--soft) }
  section { border-top: 1px solid var(--line); margin-top: 2rem }
  figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top }
  table { border-collapse: collapse } th, td { padding: .1rem 1.2rem .1rem 0; text-align: left; font-weight: normal }
</style></head><body>
<h1>Benchmarks</h1><p class="soft">{{ machine }}. Small runs; noise decides between figures that are close.</p>
{% for report in reports %}<section id="{{ report.name }}"><h2>{{ report.name }}</h2><p>{{ report.title }}</p>
<p><code>{{ report.command }}</code></p>
{% if report.found is none %}<p><strong>failed:</strong> {{ report.error }}</p>{% else %}
{% for figure in report.figures() %}<figure>{{ figure | safe }}</figure>{% endfor %}
<details><summary>all figures</summary><table>
{% for name, value in report.scalars() %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table></details>
{% endif %}</section>{% endfor %}</body></html>
"""


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark: what it is for, the command that printed it, its JSON object (None: it failed, see `error`)."""

    name: str
    title: str
    command: str
    found: Mapping[str, Any] | None
    error: str

    def scalars(self) -> Iterator[tuple[str, str]]:
        """Single figures, by the path of their keys."""
        yield from _scalars(self.found or {}, "")

    def figures(self) -> Iterator[str]:
        """A plot for each part that has a known shape, as SVG."""
        yield from _drawings(self.found or {}, "")


def page(reports: list[Report], machine: str) -> str:
    """The whole page."""
    return jinja2.Environment(autoescape=True).from_string(PAGE).render(reports=reports, machine=machine)


def _numbers(value: Any) -> dict[str, float]:
    """The numbers of a dictionary by key; empty for anything else."""
    if not isinstance(value, dict):
        return {}
    return {str(k): float(v) for k, v in value.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _drawings(found: Mapping[str, Any], path: str) -> Iterator[str]:
    """Parts that can be drawn, drawn."""
    parts = {key: _numbers(value) for key, value in found.items() if isinstance(value, dict)}
    spreads = {key: numbers["p50"] for key, numbers in parts.items() if numbers.keys() >= SPREAD}
    grown = {key: numbers for key, numbers in parts.items() if len(numbers) > 1 and all(map(str.isdecimal, numbers))}
    if len(spreads) > 1:
        yield _bars(f"{path} medians".strip(), spreads)
    if grown:
        yield _growth(path or "growth", grown)
    for key, numbers in parts.items():
        title = f"{path} {key}".strip()
        if key in grown or (key in spreads and len(spreads) > 1):
            continue
        if "egresslab" in numbers or key == "chapters" or numbers.keys() >= SPREAD:
            yield _bars(title, numbers)
        else:
            yield from _drawings(found[key], title)


def _scalars(found: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for key, value in found.items():
        name = f"{path} {key}".strip()
        if isinstance(value, dict):
            yield from _scalars(value, name)
        elif isinstance(value, list):
            if value and len(str(value)) < 200:
                yield name, ", ".join(map(str, value))
        else:
            yield name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _bars(title: str, values: dict[str, float]) -> str:
    figure, axes = pyplot.subplots(figsize=(4.6, 0.55 + 0.28 * len(values)), layout="constrained")
    names, contest = list(values)[::-1], "egresslab" in values
    colours = [OTHERS if contest and name != "egresslab" else OURS for name in names]
    bars = axes.barh(names, [values[name] for name in names], color=colours)
    axes.bar_label(bars, fmt=_short, padding=3, color=INK, fontsize=8)
    axes.set_xlim(0, max(values.values(), default=1) * 1.25 or 1)
    axes.xaxis.set_visible(False)
    return _drawn(figure, axes, title)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _growth(title: str, lines: dict[str, dict[str, float]]) -> str:
    figure, axes = pyplot.subplots(figsize=(6.4, 1.2 + 0.24 * max(4, len(lines))), layout="constrained")
    for name, values in lines.items():
        sizes = sorted(values, key=int)
        axes.plot([int(size) for size in sizes], [values[size] for size in sizes], marker="o", label=name)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.1 * max(max(values.values()) for values in lines.values()) or 1)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, labelcolor=INK)
    return _drawn(figure, axes, title)


def _drawn(figure: Any, axes: Any, title: str) -> str:
    axes.set_title(title.replace("_", " "), fontsize=10, color=INK, loc="left")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
