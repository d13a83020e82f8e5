"""`python -m egresslab.voter --status`: the voter's report as tables, for whoever looks into the container."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from egresslab.voter.files import LeaseReport, Report, read_report

OLD_S = 3.0


def show(path: Path) -> int:
    """Print the report at `path`; the exit code. A report is shown however old it is, and its age is said."""
    try:
        report = read_report(path)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if report is None:
        print(f"{path}: no voter has reported yet")
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(_header(report))
    console.print(_leases(report))
    console.print(_nodes(report))
    return 0


def _header(report: Report) -> str:
    age = time.time() - report.time
    parts = [
        f"node {report.node}",
        f"{'voter' if report.voter else 'no voter'} (generation {report.generation})",
        "hears a majority" if report.quorum else "hears no majority",
        "real-time" if report.realtime else "no real-time priority",
        f"latest wake-up of the minute {report.late_ms:.1f} ms",
    ]
    if report.down:
        parts.append(f"without link: {', '.join(report.down)}")
    if age > OLD_S:
        parts.append(f"REPORTED {age:.0f} s AGO")
    return ", ".join(parts)


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _leases(report: Report) -> Table:
    table = _table("LEASE", "KEY", "HOLDER", "EPOCH", "HERE", "VOTE", "SINCE", "LAST MOVE", "CONFLICTS")
    for lease in report.leases:
        table.add_row(
            str(lease.lease),
            lease.key,
            lease.holder or "-",
            str(lease.epoch),
            "silent" if lease.silent and lease.held else "held" if lease.held else "-",
            lease.vote or "-",
            _ago(lease.since),
            _move(lease),
            ", ".join(f"{item.address} {item.mac} {item.interface}" for item in lease.conflicts) or "-",
        )
    return table


def _move(lease: LeaseReport) -> str:
    last = lease.last_failover
    if last is None:
        return "-"
    gap = "" if last.outage_ms is None else f" {last.outage_ms:.0f} ms"
    return f"{last.origin or '-'} > {last.target} {last.cause}{gap}"


def _nodes(report: Report) -> Table:
    table = _table("NODE", "ALIVE", "SEEN HERE", "VOTER", "RTT")
    for node in report.nodes:
        rtt = "-" if node.rtt_us is None else f"{node.rtt_us} us"
        table.add_row(node.name, _yes(node.alive), _yes(node.seen), _yes(node.voter_alive), rtt)
    return table


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def _ago(moment: float | None) -> str:
    return "-" if moment is None else f"{max(0.0, time.time() - moment):.0f} s"
