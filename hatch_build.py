"""Build hook: compile the eBPF object and the CNI plug-in, so that the wheel carries them and needs no compiler.

An editable install skips the compiler when they are there and newer than their sources.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileDatapath(BuildHookInterface):  # type: ignore[type-arg]
    """Runs the Makefiles of what is written in C before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; `version` is hatch's build kind, `build_data` stays as it is (what comes of it are artifacts)."""
        for part in ("datapath/bpf", "agent/cni"):
            sources = Path(self.root) / "egresslab" / part
            if (sources / "Makefile").exists():
                subprocess.run(["make", "--silent", "-C", str(sources)], check=True)
