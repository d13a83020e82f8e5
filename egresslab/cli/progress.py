"""Tells the user on stderr what `up` and `down` are doing: one line for each step with the time it took."""

from __future__ import annotations

import sys
import time


class StepLines:
    """Plain lines; on a terminal the running step is shown on a line that its result replaces."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._live = sys.stderr.isatty()
        self._current: str | None = None
        self._begun = 0.0

    def step(self, text: str) -> None:
        """A new step begins, and the one before is done."""
        self.finish()
        self._current, self._begun = text, time.monotonic()
        if self._live:
            self._console.print(f"  … {text}", end="\r", markup=False)

    def note(self, text: str) -> None:
        """Something worth saying within the step."""
        self._console.print(f"    {text}", markup=False)

    def finish(self, *, ok: bool = True) -> None:
        """The last step is over."""
        if self._current is not None:
            mark = "[green]✔[/] " if ok else "[red]✘[/] "
            self._console.print(mark, end="")
            self._console.print(f"{self._current} ({time.monotonic() - self._begun:.1f} s)   ", markup=False)
        self._current = None
