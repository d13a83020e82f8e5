"""Chapters: where they are, what they say about themselves, which parameters they take.

Reads notebooks and never runs them.
"""

from __future__ import annotations

import difflib
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from papermill.inspection import inspect_notebook

from egresslab.errors import LabError

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Chapter:
    """One notebook; `id` is its file's name without the ending, such as `02-the-first-policy`."""

    id: str
    path: Path
    title: str
    minutes: int
    backends: tuple[str, ...]
    requires: tuple[str, ...]
    parameters: Mapping[str, str]
    """Name of each parameter, and what its comment says about it."""

    def lacking(self, environment: str) -> str:
        """Why the chapter cannot run here, or nothing if it can."""
        if environment not in self.backends:
            return f"runs on {', '.join(self.backends)}, not on {environment}"
        return "; ".join(reason for need in self.requires if (reason := _unmet(need)))

    def refuse_unknown(self, parameters: Iterable[str]) -> None:
        """Raise `LabError` for a parameter that the chapter does not have (papermill would pass it by)."""
        for name in parameters:
            if name not in self.parameters:
                near = difflib.get_close_matches(name, self.parameters, n=1)
                raise LabError(
                    "the chapter has no such parameter",
                    object=self.id,
                    value=name,
                    fix=f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.parameters)}",
                )


def home() -> Path:
    """Where the chapters are: beside the package in a checkout, inside it in a wheel; else `LabError`."""
    for place in (PACKAGE.parent / "labs", PACKAGE / "chapters"):
        if any(place.glob("*.ipynb")):
            return place
    raise LabError(
        "there are no chapters", object=str(PACKAGE.parent / "labs"), fix="install egresslab with its chapters"
    )


def read(path: Path) -> Chapter:
    """A chapter from its notebook; `LabError` for a file that is none."""
    try:
        metadata: Mapping[str, Any] = nbformat.read(path, as_version=4).metadata.get("lab", {})
        parameters = inspect_notebook(str(path))
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise LabError(f"not a notebook: {error}", object=str(path)) from error
    return Chapter(
        path.stem,
        path,
        str(metadata.get("title", path.stem)),
        int(metadata.get("minutes", 0)),
        tuple(metadata.get("backends", ("netns",))),
        tuple(metadata.get("requires", ())),
        {name: str(parameter["help"]) for name, parameter in parameters.items()},
    )


def discover(directory: Path, wanted: Sequence[str] = ()) -> list[Chapter]:
    """The chapters of a directory in order; `wanted` are numbers (`02`), ids, parts of an id, or paths of notebooks.

    Raises `LabError` for a wish that nothing fits.
    """
    paths = sorted(path for path in directory.glob("*.ipynb") if path.stem[:1].isdigit())
    if not wanted:
        return [read(path) for path in paths]
    chosen: list[Path] = []
    for wish in wanted:
        if wish.endswith(".ipynb"):
            found = [Path(wish)]
        else:
            found = [path for path in paths if path.stem == wish or path.stem.split("-", 1)[0] == wish.zfill(2)]
            found = found or [path for path in paths if wish in path.stem]
        if not found:
            known = ", ".join(path.stem for path in paths)
            raise LabError("there is no such chapter", value=wish, fix=f"one of {known}")
        chosen += [path for path in found if path not in chosen]
    return [read(path) for path in chosen]


def _unmet(need: str) -> str:
    if need == "root":
        return "" if os.geteuid() == 0 else "needs root"
    if need.startswith("kernel>="):
        wanted, running = need.removeprefix("kernel>="), platform.release()
        return "" if _version(running) >= _version(wanted) else f"needs kernel {wanted}, this is {running}"
    return f"needs {need!r}, which this version cannot tell"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-")[0].split(".")[:2] if part.isdigit())
