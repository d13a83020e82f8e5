"""Sub-commands that are imported when they are called, so that `egresslab --help` answers at once.

A sub-command is known by name, module and one line of help; help and completion of the rest come from the real one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperGroup

LAZY: dict[str, tuple[str, str]] = {
    "labs": ("egresslab.cli.labs", "List and run chapters."),
    "policy": ("egresslab.cli.policy", "Entries, explanation, plan and lint of egress policies, offline or live."),
    "bpf": ("egresslab.cli.bpf", "What the kernel holds, read from the kernel."),
    "observe": ("egresslab.cli.observe", "Flows with their verdicts."),
    "drill": ("egresslab.cli.drill", "Traffic through a fault, measured."),
}
"""Name to module, which has a Typer `app`, and help. A module that is not there is not shown."""


class LazyCommand(TyperGroup):
    """Stands for a Typer app in another module until it is called."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name=name, help=summary)
        self._module = module

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the real command, which is what is invoked and completed from here on."""
        real = typer.main.get_command(import_module(self._module).app)
        real.name = self.name
        return real.make_context(info_name, args, parent=parent, **extra)


class Root(TyperGroup):
    """The `egresslab` command itself: its own commands first, then the lazy ones."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (module, summary) in LAZY.items():
            if find_spec(module) is not None:
                self.add_command(LazyCommand(name, module, summary))
