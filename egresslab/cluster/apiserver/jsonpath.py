"""The JSONPath that printer columns use: `.status.conditions[?(@.type=="Ready")].status`, `.spec.list[0]`, `['a.b']`.

Only what CustomResourceDefinitions allow in additionalPrinterColumns ("simple" JSON paths); kubectl evaluates its own
`-o jsonpath`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_STEP = re.compile(
    r"""\.(?P<name>(?:[^.\[\]\\]|\\.)+)
      | \[(?P<index>-?\d+|\*)\]
      | \[(?P<quote>['"])(?P<key>.*?)(?P=quote)\]
      | \[\?\(\s*@\.(?P<path>[^=!<>\s]+)\s*(?P<operator>==|!=)\s*(?P<mark>['"]?)(?P<value>.*?)(?P=mark)\s*\)\]
    """,
    re.VERBOSE,
)


class PathError(ValueError):
    """Not a path that columns can use."""


@lru_cache(maxsize=256)
def _parse(path: str) -> tuple[re.Match[str], ...]:
    steps, position = [], 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise PathError(f"unexpected {path[position:]!r} in {path!r}")
        steps.append(match)
        position = match.end()
    return tuple(steps)


def find(obj: Any, path: str) -> list[Any]:
    """All values at `path`; none when some step is missing. Raises `PathError` for what is not a path."""
    values = [obj]
    for step in _parse(path):
        values = [found for value in values for found in _take(value, step)]
    return values


def _take(value: Any, step: re.Match[str]) -> list[Any]:
    key = step["name"].replace("\\", "") if step["name"] is not None else step["key"]
    if key is not None:
        return [value[key]] if isinstance(value, dict) and key in value else []
    if not isinstance(value, list):
        return []
    if step["path"] is not None:
        equal = step["operator"] == "=="
        return [item for item in value if (_text(find(item, f".{step['path']}")) == step["value"]) is equal]
    if step["index"] == "*":
        return value
    index = int(step["index"])
    return [value[index]] if -len(value) <= index < len(value) else []


def _text(values: list[Any]) -> str | None:
    if not values:
        return None
    return str(values[0]).lower() if isinstance(values[0], bool) else str(values[0])
