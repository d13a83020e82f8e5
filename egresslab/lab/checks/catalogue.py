"""All checks by id: those that every chapter may use, and those that one chapter has for itself.

A check is in the tuple `CHECKS` of a module of this package. The modules are looked up, so that a new one is registered
nowhere; those called `chapter_NN` belong to chapter NN alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import MappingProxyType

from egresslab.errors import LabError
from egresslab.lab import checks, locations
from egresslab.lab.checks.model import Check

OF_A_CHAPTER = "chapter_"


@cache
def shared() -> Mapping[str, Check]:
    """The checks that every chapter may use."""
    names = (module.name for module in iter_modules(checks.__path__) if not module.name.startswith(OF_A_CHAPTER))
    return MappingProxyType({check.id: check for name in names for check in _of(name)})


@cache
def own(chapter: str) -> Mapping[str, Check]:
    """The checks that only this chapter has; `chapter` is its id or its number."""
    name = f"{OF_A_CHAPTER}{locations.number(chapter)}"
    if find_spec(f"{checks.__name__}.{name}") is None:
        return MappingProxyType({})
    return MappingProxyType({check.id: check for check in _of(name)})


def everything() -> dict[str, tuple[Check, ...]]:
    """All checks: the shared ones under an empty name, a chapter's own under its number."""
    found = {"": tuple(shared().values())}
    for module in iter_modules(checks.__path__):
        if module.name.startswith(OF_A_CHAPTER):
            found[module.name.removeprefix(OF_A_CHAPTER)] = _of(module.name)
    return found


def find(id: str, chapter: str = "") -> Check:
    """The check of that id for a chapter; `LabError` with the nearest id for an unknown one."""
    known = {**shared(), **own(chapter)}
    try:
        return known[id]
    except KeyError:
        near = difflib.get_close_matches(id, known, n=1)
        raise LabError(
            "there is no such check",
            object=id,
            fix=f"did you mean {near[0]!r}?" if near else f"one of {sorted(known)}",
        ) from None


def _of(module: str) -> tuple[Check, ...]:
    found: tuple[Check, ...] = getattr(import_module(f"{checks.__name__}.{module}"), "CHECKS", ())
    return found
