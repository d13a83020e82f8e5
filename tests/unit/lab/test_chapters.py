"""Finding chapters, and what they say about themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from egresslab.errors import LabError
from egresslab.lab import chapters
from egresslab.lab.chapters import Chapter


@pytest.mark.parametrize(
    ("wish", "ids"),
    [
        ([], ["00-start-here", "01-the-problem", "02-the-first-policy"]),
        (["2"], ["02-the-first-policy"]),
        (["0"], ["00-start-here"]),
        (["02", "01"], ["02-the-first-policy", "01-the-problem"]),
        (["first-policy"], ["02-the-first-policy"]),
        (["01-the-problem", "1"], ["01-the-problem"]),
    ],
)
def test_chapters_are_found_by_number_name_or_part(wish: list[str], ids: list[str]) -> None:
    found = [chapter.id for chapter in chapters.discover(chapters.home(), wish)]
    assert found[: len(ids)] == ids


def test_an_unknown_chapter_lists_the_known_ones() -> None:
    for wish in ("nothing-like-it", "99", "1234"):
        with pytest.raises(LabError, match="01-the-problem"):
            chapters.discover(chapters.home(), [wish])


def test_a_file_that_is_no_notebook(tmp_path: Path) -> None:
    path = tmp_path / "01-x.ipynb"
    path.write_text("no JSON")
    with pytest.raises(LabError, match="not a notebook"):
        chapters.read(path)


def make_chapter(**changes: object) -> Chapter:
    fields = {"id": "01", "path": Path("x"), "title": "X", "minutes": 1, "environments": ("netns", "kubeconfig")}
    fields |= {"requires": (), "topology": ""}
    return Chapter(**{**fields, "parameters": {"gateway": "", "mode": ""}, **changes})  # type: ignore[arg-type]


def test_an_unknown_parameter_is_refused_with_the_nearest_name() -> None:
    make_chapter().refuse_unknown(["gateway"])
    with pytest.raises(LabError, match="did you mean 'gateway'"):
        make_chapter().refuse_unknown(["gatewy"])


@pytest.mark.parametrize(
    ("changes", "environment", "reason"),
    [
        ({}, "netns", ""),
        ({}, "kind", "runs on netns, kubeconfig, not on kind"),
        ({"requires": ("kernel>=99.1",)}, "netns", "needs kernel 99.1"),
        ({"requires": ("kernel>=4.1",)}, "netns", ""),
        ({"requires": ("cpus>=4096",)}, "netns", "needs 4096 processors"),
        ({"requires": ("memory>=1",)}, "netns", ""),
        ({"requires": ("faults",)}, "netns", "" if os.geteuid() == 0 else "needs root"),
        ({"requires": ("faults",)}, "kubeconfig", "needs an environment that can be broken"),
        ({"requires": ("moonlight",)}, "netns", "needs 'moonlight'"),
    ],
)
def test_a_chapter_says_what_it_lacks(changes: dict[str, object], environment: str, reason: str) -> None:
    lacking = make_chapter(**changes).lacking(environment)
    assert lacking.startswith(reason)
    assert bool(lacking) == bool(reason)
