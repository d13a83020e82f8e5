"""The API server's own check, run offline: what its schema refuses never reaches an agent."""

from __future__ import annotations

from collections.abc import Mapping

from egresslab.api.crds import check
from egresslab.policy.fields import SHOWN
from egresslab.policy.lint.findings import REFUSED, SCHEMA
from egresslab.policy.lint.situation import Report

MAX_PARTS = 100_000
"""More than any object that an API server takes; YAML's aliases make far more out of a few lines."""
MAX_DEPTH = 100


def check_schema(index: int, obj: object, known: set[str], report: Report) -> None:
    """Faults of one object that are not `known` (paths) already."""
    if not isinstance(obj, dict):
        return
    if not _bounded(obj):
        report(index, REFUSED, "", "larger than any object that an API server takes", "split it")
        return
    for fault in check(obj):
        if fault.field not in known:
            body = fault.body if len(fault.body) <= SHOWN * 3 else f"{fault.body[: SHOWN * 3]}…"
            report(index, SCHEMA, fault.field, f"the API server refuses it: {body}", "correct the field")


def _bounded(value: object) -> bool:
    """Whether the object, written out, has no more than so many parts, and only keys that JSON has."""
    seen, level = 0, [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for part in level:
            if isinstance(part, Mapping):
                if not all(isinstance(key, str) for key in part):
                    return False
                below.extend(part.values())
            elif isinstance(part, list):
                below.extend(part)
            seen += 1
            if seen + len(below) > MAX_PARTS:
                return False
        if not below:
            return True
        level = below
    return False
