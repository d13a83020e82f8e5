"""How long the chapters take, each in a lab of its own, as many side by side as there are cores.

Prints one JSON object. A chapter's time contains its lab's; `total_s` is from the command's start to its end,
`parallel` how many ran at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def run(wanted: list[str], jobs: int, out: Path) -> dict[str, Any]:
    """Run the chapters and read what they took; ends the program when one did not pass."""
    command = [
        sys.executable,
        "-m",
        "egresslab.cli.main",
        "labs",
        "run",
        *wanted,
        "--jobs",
        str(jobs),
        "--out",
        str(out),
    ]
    begun = time.perf_counter()
    answer = subprocess.run([*command, *wanted], stdout=sys.stderr, timeout=1800)
    total_s = time.perf_counter() - begun
    if answer.returncode:
        sys.exit(f"a chapter did not pass: {out}")
    chapters = json.loads((out / "results.json").read_text())["chapters"]
    return {
        "chapters": {chapter["id"]: round(chapter["seconds"], 1) for chapter in chapters},
        "total_s": round(total_s, 1),
        "parallel": jobs,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapters", nargs="*", help="numbers or ids; default: all")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="egresslab-labs-") as out:
        found = run(options.chapters, options.jobs, Path(out))
    print(json.dumps(found | {"kernel": platform.release(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
