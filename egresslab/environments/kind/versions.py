"""The one file in which every version is pinned: `versions.env` of the environment's definitions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from egresslab.environments.definitions import definitions
from egresslab.errors import EnvironmentFailure

FILE = "versions.env"


def pinned() -> Mapping[str, str]:
    """Name to version; raises `EnvironmentFailure` for a line that is no assignment."""
    path = definitions("kind") / FILE
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Z_]+)=(\S+)", line)
        if match is None:
            raise EnvironmentFailure("is no assignment", object=str(path), field=f"line {number}", value=line)
        found[match[1]] = match[2]
    return found


def numbers(text: str) -> tuple[int, ...]:
    """`v1.37.1` as (1, 37, 1), to compare; empty where there is no version in the text."""
    match = re.search(r"v?(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()
