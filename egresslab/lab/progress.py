"""A learner's progress: one file of JSON lines that survives restarts and never leaves the machine.

Each line is one event (a check's outcome, a hint taken). It is appended to, never rewritten, so that two open
chapters cannot spoil it for each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STATE_VARIABLE = "EGRESSLAB_STATE_DIR"


def state_directory() -> Path:
    """Where the file is: $EGRESSLAB_STATE_DIR, else below $XDG_STATE_HOME (XDG Base Directory Specification)."""
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "egresslab"


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress file."""

    path: Path

    @classmethod
    def default(cls) -> Progress:
        """This learner's file."""
        return cls(state_directory() / "progress.jsonl")

    def record(self, event: str, chapter: str, **details: Any) -> None:
        """Append one event with the time (UTC, ISO 8601)."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "event": event,
            "chapter": chapter,
            **details,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """All events, oldest first; a line cut off by a crash is left out."""
        if not self.path.exists():
            return
        for line in self.path.read_text().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event

    def best(self) -> dict[tuple[str, str], str]:
        """For each (chapter, check) the best outcome so far: `pass` once passed, else the last one."""
        outcomes: dict[tuple[str, str], str] = {}
        for event in self.events():
            if event.get("event") != "check":
                continue
            key = (str(event.get("chapter")), str(event.get("check")))
            if outcomes.get(key) != "pass":
                outcomes[key] = str(event.get("outcome"))
        return outcomes
