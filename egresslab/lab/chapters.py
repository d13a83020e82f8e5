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
import psutil
from papermill.inspection import inspect_notebook

from egresslab.errors import LabError
from egresslab.lab.locations import home

ELSEWHERE = "kubeconfig"
"""The environment that is whatever KUBECONFIG points at."""
ENVIRONMENTS = ("netns", "vm", "kind", ELSEWHERE)
NEEDS = ("kernel", "cpus", "memory", "faults")
"""What a chapter may require; the first three with `>=` and a number."""

__all__ = ["Chapter", "discover", "home", "read"]


@dataclass(frozen=True, slots=True)
class Chapter:
    """One notebook; `id` is its file's name without the ending, such as `02-the-first-policy`."""

    id: str
    path: Path
    title: str
    minutes: int
    environments: tuple[str, ...]
    requires: tuple[str, ...]
    topology: str
    """File of the environment's definitions that its lab is made from, without ending; empty for the usual one."""
    parameters: Mapping[str, str]
    """Name of each parameter, and what its comment says about it."""

    def lacking(self, environment: str) -> str:
        """Why the chapter cannot run here, or nothing if it can."""
        if environment not in self.environments:
            return f"runs on {', '.join(self.environments)}, not on {environment}"
        if "faults" in self.requires and environment == ELSEWHERE:
            return "needs an environment that can be broken on purpose"
        return "; ".join(reason for need in self.requires if need != "faults" and (reason := _unmet(need)))

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
        tuple(metadata.get("environments", ("netns",))),
        tuple(metadata.get("requires", ())),
        str(metadata.get("topology", "")),
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
            if not wish.isdigit():
                found = found or [path for path in paths if wish in path.stem]
        if not found:
            known = ", ".join(path.stem for path in paths)
            raise LabError("there is no such chapter", value=wish, fix=f"one of {known}")
        chosen += [path for path in found if path not in chosen]
    return [read(path) for path in chosen]


def _unmet(need: str) -> str:
    name, _, wanted = need.partition(">=")
    match name:
        case "kernel":
            running = platform.release()
            return "" if _version(running) >= _version(wanted) else f"needs kernel {wanted}, this is {running}"
        case "cpus":
            found = len(os.sched_getaffinity(0))
            return "" if found >= int(wanted) else f"needs {wanted} processors, this machine has {found}"
        case "memory":
            gigabytes = psutil.virtual_memory().total / 2**30
            return "" if gigabytes >= float(wanted) else f"needs {wanted} GiB of memory, there are {gigabytes:.1f}"
        case _:
            return f"needs {need!r}, which this version cannot tell"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-")[0].split(".")[:2] if part.isdigit())
