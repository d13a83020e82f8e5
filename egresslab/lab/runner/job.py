"""What a runner tells its child and hears from it: values that cross a pipe as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """One notebook to execute: `cell_timeout_s` bounds every single cell; `red` asks checks before solutions too."""

    notebook: Path
    executed: Path
    parameters: Mapping[str, Any]
    cell_timeout_s: int
    red: bool = False

    def to_text(self) -> str:
        """As one line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_text(cls, text: str) -> Job:
        """Back from `to_text`."""
        data = json.loads(text)
        paths = Path(data["notebook"]), Path(data["executed"])
        return cls(*paths, data["parameters"], data["cell_timeout_s"], data["red"])


class Ending(IntEnum):
    """Exit codes of the child; any other, or a signal, means that the child itself came to grief."""

    COMPLETE = 0
    CELL_FAILED = 3
    CELL_TIMEOUT = 4
    KERNEL_DIED = 5


@dataclass(frozen=True, slots=True)
class Step:
    """The child begins with cell `index` of `total`."""

    index: int
    total: int
    id: str

    def to_text(self) -> str:
        """As one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Step:
        """Back from `to_text`; raises ValueError for anything else."""
        try:
            data = json.loads(text)
            return cls(int(data["index"]), int(data["total"]), str(data["id"]))
        except (KeyError, TypeError) as error:
            raise ValueError(text) from error
