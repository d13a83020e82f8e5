"""Every benchmark, small, one after the other: its JSON and one page with plots in a folder; what `make bench` runs.

The small sizes show that each works and roughly where it stands; figures that are quoted come from the full ones.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from _page import Report, page

SMALL: dict[str, tuple[str, ...]] = {
    "apiserver": ("--repeats", "50", "--idle-seconds", "10"),
    "apply_latency": ("--repeats", "10"),
    "datapath": ("--repeats", "5"),
    "engine": ("--pods", "10000", "--nodes", "100", "--policies", "100"),
    "failover": ("--fault", "crash", "--repeats", "2"),
    "footprint": ("--pods", "500", "--policies", "20"),
    "labs": ("00", "01", "02"),
    "pod_start": ("--pods", "50"),
    "sessions": ("--flows", "20000"),
    "up_down": ("--repeats", "2"),
    "voter": ("--repeats", "5", "--seconds", "5"),
}
"""Options of each; one that is not here runs as it is."""
LONGEST_S = 1800.0


def run(program: Path, out: Path) -> Report:
    """One benchmark; its answer is written beside the page. One that fails is told, and the others go on."""
    name = program.stem
    command = [sys.executable, str(program), *SMALL.get(name, ())]
    print(f"== {' '.join([f'benchmarks/{program.name}', *SMALL.get(name, ())])}", file=sys.stderr, flush=True)
    title = (ast.get_docstring(ast.parse(program.read_text())) or name).partition("\n\n")[0].replace("\n", " ")
    typed = f"python benchmarks/{' '.join([program.name, *SMALL.get(name, ())])}"
    try:
        answer = subprocess.run(command, stdout=subprocess.PIPE, timeout=LONGEST_S, check=True).stdout
        found = json.loads(answer)
    except (subprocess.SubprocessError, ValueError) as error:
        return Report(name, title, typed, None, str(error))
    (out / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    return Report(name, title, typed, found, "")


def main() -> None:
    """Run all, or those named; exit 1 when one failed."""
    wanted = sys.argv[1:]
    out = Path("build/bench")
    out.mkdir(parents=True, exist_ok=True)
    programs = [path for path in sorted(Path(__file__).parent.glob("[a-z]*.py")) if not wanted or path.stem in wanted]
    reports = [run(path, out) for path in programs]
    machine = f"{platform.release()}, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    (out / "index.html").write_text(page(reports, machine))
    print(f"{out / 'index.html'}: {len(reports)} benchmarks", file=sys.stderr)
    failed = [report.name for report in reports if report.found is None]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
