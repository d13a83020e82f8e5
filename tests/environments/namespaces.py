"""Running commands where a lab's members are."""

from __future__ import annotations

import subprocess

from egresslab.environments.netns.paths import LabPaths


def inside(paths: LabPaths, member: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a namespace of the lab."""
    enter = ["nsenter", f"--net={paths.namespace_file(member)}", *command]
    return subprocess.run(enter, capture_output=True, text=True, timeout=20)
