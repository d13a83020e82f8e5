"""What is left on the host of a lab that should be gone. Looks, and never removes."""

from __future__ import annotations

import psutil

from egresslab.environments.netns.kernel import mounts_below
from egresslab.environments.netns.paths import NAMESPACES, LabPaths

MEMBER_PREFIX = "egresslab-"


def leftovers(lab: str) -> tuple[str, ...]:
    """One line for each thing of the lab that is still there; nothing after a clean `down`."""
    paths = LabPaths(lab)
    found = [f"directory {paths.root}"] if paths.root.exists() else []
    found += [f"mount {point}" for point in mounts_below(paths.root)] if paths.root.exists() else []
    if NAMESPACES.is_dir():
        prefix = f"{MEMBER_PREFIX}{lab}-"
        found += [f"network namespace {path.name}" for path in NAMESPACES.iterdir() if path.name.startswith(prefix)]
    below = f"{paths.root}/"
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.startswith(below) for word in words) or ("--lab" in words and lab in words):
            found.append(f"process {process.pid} ({' '.join(words)[:80]})")
    return tuple(sorted(found))
