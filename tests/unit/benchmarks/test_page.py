"""The page of `make bench`: every figure is on it, and what failed is said."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "_page.py"


@pytest.fixture(scope="module")
def module() -> Any:
    spec = importlib.util.spec_from_file_location("_page", FILE)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["_page"] = found
    spec.loader.exec_module(found)
    yield found
    del sys.modules["_page"]


@pytest.mark.parametrize(
    ("found", "drawn"),
    [
        ({"gap_ms": {"p50": 1, "p99": 2, "max": 3}}, ["gap ms"]),
        ({"a": {"p50": 1, "p99": 2, "max": 3}, "b": {"p50": 1, "p99": 2, "max": 3}}, ["medians"]),
        ({"per_s": {"egresslab": 12345, "kernel": 7}}, ["per s"]),
        ({"ns": {"to_pod": {"10": 1, "1000": 2}, "from_pod": {"10": 3, "1000": 4}}}, ["ns"]),
        ({"rows": {"crash": {"gap_ms": {"p50": 1, "p99": 2, "max": 3}}}}, ["rows crash gap ms"]),
        ({"up_s": 3.5, "nothing": None}, []),
    ],
)
def test_what_has_a_known_shape_is_drawn_once(module: Any, found: dict[str, Any], drawn: list[str]) -> None:
    figures = list(module.Report("x", "title", "command", found, "").figures())
    assert len(figures) == len(drawn)
    for svg, title in zip(figures, drawn, strict=True):
        assert f"<!-- {title} -->" in svg


def test_every_figure_is_listed_and_a_failure_is_told(module: Any) -> None:
    good = module.Report("one", "what it is <for>", "run it", {"rows": {"crash": {"kept": 20_000}}}, "")
    text = module.page([good, module.Report("two", "", "", None, "it died")], "kernel 6, 2 cores")
    for expected in ("what it is &lt;for&gt;", "rows crash kept", "20,000", "it died", "kernel 6, 2 cores"):
        assert expected in text
