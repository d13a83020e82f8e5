"""Build hook: compile the eBPF object, so that the wheel carries it and its users need no compiler.

An editable install skips the compiler when the object is there and newer than its sources.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileDatapath(BuildHookInterface):  # type: ignore[type-arg]
    """Runs `egresslab/datapath/bpf/Makefile` before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; `version` is hatch's build kind, `build_data` stays as it is (the object is an artifact)."""
        sources = Path(self.root) / "egresslab" / "datapath" / "bpf"
        if (sources / "Makefile").exists():
            subprocess.run(["make", "--silent", "-C", str(sources)], check=True)
