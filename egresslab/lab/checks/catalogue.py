"""All checks by id."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from egresslab.errors import LabError
from egresslab.lab.checks import addresses, boundary, rows
from egresslab.lab.checks.model import Check

CATALOGUE: Mapping[str, Check] = MappingProxyType(
    {check.id: check for check in (*addresses.CHECKS, *rows.CHECKS, *boundary.CHECKS)}
)


def find(id: str) -> Check:
    """The check of that id; `LabError` with the nearest id for an unknown one."""
    try:
        return CATALOGUE[id]
    except KeyError:
        near = difflib.get_close_matches(id, CATALOGUE, n=1)
        raise LabError(
            "there is no such check",
            object=id,
            fix=f"did you mean {near[0]!r}?" if near else f"one of {sorted(CATALOGUE)}",
        ) from None
