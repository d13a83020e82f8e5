"""What is done to namespaces of nodes, in a process of its own: it enters them, and pytest must not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_apart(module: str, directory: Path) -> Any:
    """What the module says in JSON; the test fails with the logs that it left in `directory`."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(directory)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    logs = "".join(f"\n== {path.name}\n{path.read_text()[-3000:]}" for path in directory.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    return json.loads(done.stdout)
