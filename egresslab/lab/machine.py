"""What `egresslab doctor` says about this machine, for somebody whose lab is up already.

Whoever may not become root still has a lab, brought up for them; for them root is not missing.
"""

from __future__ import annotations

import json
import os

from egresslab.lab import terminal
from egresslab.lab.display import Table
from egresslab.lab.terminal import CommandResult

TIMEOUT_S = 60.0
MARKS = {"ok": "✔ ok", "missing": "✘ missing"}


def examine(kubeconfig: str) -> Table:
    """The doctor's findings as a table; raises `LabError` when it finds nothing at all."""
    ended = terminal.egresslab("doctor -o json", kubeconfig=kubeconfig, stdin=None, timeout_s=TIMEOUT_S)
    if not ended.stdout.strip():
        ended.succeeded()
    return table(ended, root=os.geteuid() == 0)


def table(ended: CommandResult, *, root: bool) -> Table:
    """The findings that the doctor printed as JSON."""
    rows: list[tuple[str, ...]] = []
    for finding in json.loads(ended.stdout)["findings"]:
        if finding["name"] == "root" and not root:
            rows.append(("root", "– not needed", "the lab is up"))
            continue
        verdict = str(finding["verdict"])
        rows.append((finding["name"], MARKS.get(verdict, f"– {verdict}"), finding["found"]))
    return Table("$ egresslab doctor", ("check", "result", "found"), tuple(rows))
