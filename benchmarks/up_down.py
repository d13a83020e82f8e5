"""How long a lab takes to come up and to go, as the commands are typed; prints one JSON object, times in seconds.

`nodes_ready` is from the command's start until every node is Ready, `up` until the agents and the operator are rolled
out as well. `left` lists what is on the host after the last `down` and was not before the first `up`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

EGRESSLAB = [sys.executable, "-m", "egresslab.cli.main"]
STEP = re.compile(r"^✔ (?P<step>.*) \((?P<seconds>[0-9.]+) s\)", re.MULTILINE)
LAST_STEP = "agent and operator rolled out"


def timed(*arguments: str) -> tuple[float, str]:
    """Seconds that a command took, and what it said."""
    begun = time.perf_counter()
    answer = subprocess.run([*EGRESSLAB, *arguments], capture_output=True, text=True, timeout=180)
    if answer.returncode:
        sys.exit(answer.stderr)
    return time.perf_counter() - begun, answer.stderr


def footprint(lab: str) -> set[str]:
    """Names on the host that a lab could leave behind."""
    found = {f"file {path}" for path in Path("/run").glob("egresslab/*")}
    found |= {f"namespace {path.name}" for path in Path("/run/netns").glob("*")}
    found |= {f"link {path.name}" for path in Path("/sys/class/net").iterdir()}
    found |= {f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "egresslab" in command and int(process.name) != os.getpid():
            found.add(f"process {command.strip()}")
    return {entry for entry in found if lab in entry}


def summary(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lab", default="bench-up-down")
    parser.add_argument("--bare", action="store_true", help="without agent and operator")
    arguments = parser.parse_args()
    options = ["--lab", arguments.lab]
    ups, ready, downs = [], [], []
    steps: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        seconds, said = timed("up", *options, *(["--bare"] if arguments.bare else []))
        taken = {match["step"]: float(match["seconds"]) for match in STEP.finditer(said)}
        ups.append(seconds)
        ready.append(seconds - taken.get(LAST_STEP, 0.0))
        for step, spent in taken.items():
            steps.setdefault(step, []).append(spent)
        downs.append(timed("down", *options)[0])
    result = {
        "repeats": arguments.repeats,
        "bare": arguments.bare,
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "nodes_ready": summary(ready),
        "up": summary(ups),
        "down": summary(downs),
        "steps_median": {step: round(statistics.median(spent), 2) for step, spent in steps.items()},
        "left": sorted(footprint(arguments.lab)),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
