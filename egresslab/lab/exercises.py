"""Exercises and their solutions: solved by the learner, shown on request, applied in mode `solve`.

A solution is a function in a file beside the chapter, named after its exercise. It must never run in mode `learn`.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from egresslab.errors import LabError
from egresslab.lab import locations
from egresslab.lab.checks.grader import Mode
from egresslab.lab.display import HTML, TEXT, escape, show
from egresslab.lab.progress import Progress


class Exercises:
    """The exercises of one chapter; `progress` is None where nobody learns."""

    def __init__(self, chapter: str, mode: Mode, progress: Progress | None) -> None:
        self._chapter = chapter
        self._mode = mode
        self._progress = progress

    def solve(self, lab: object, name: str, attempt: Any, given: dict[str, Any]) -> Any:
        """In mode `solve` what the solution returns (nothing: the attempt); in mode `learn` the attempt.

        Raises `LabError` when there is no such solution, or it does not take what it is given; in both modes, so that
        a learner's *Run All* finds a broken chapter as well.
        """
        solution = self._find(name)
        try:
            inspect.signature(solution).bind(lab, **given)
        except TypeError as error:
            raise LabError(f"the solution does not fit its cell: {error}", object=f"exercise {name}") from error
        if self._mode is Mode.LEARN:
            text = f'Your turn. A hint: lab.hint("{name}"). One solution: lab.solution("{name}").'
            show({TEXT: text, HTML: f'<span style="opacity:0.75">{escape(text)}</span>'})
            return attempt
        found = solution(lab, **given)
        return attempt if found is None else found

    def solution(self, name: str) -> None:
        """Show the solution's code; `LabError` when there is none."""
        code = inspect.getsource(self._find(name))
        show({TEXT: code, "text/markdown": f"```python\n{code}```"})
        if self._progress is not None:
            self._progress.record("solution", self._chapter, check=name)

    def _find(self, name: str) -> Callable[..., Any]:
        known = functions(self._chapter)
        try:
            return known[name]
        except KeyError:
            raise LabError(
                "there is no solution of that name",
                object=f"exercise {name}",
                fix=f"one of {', '.join(known)}" if known else f"write {locations.SOLUTIONS}/chapter_NN.py",
            ) from None


def functions(chapter: str) -> dict[str, Callable[..., Any]]:
    """The solutions of a chapter by the name of their exercise, in the order of the file."""
    module = _module(chapter)
    if module is None:
        return {}
    return {
        name.replace("_", "-"): function
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }


def _module(chapter: str) -> ModuleType | None:
    path = locations.solutions_of(chapter)
    if path is None:
        return None
    spec = importlib.util.spec_from_file_location(f"solutions_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
