"""What the voter observed, as `voter.json`: built from its state, written when it says something new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from egresslab.datapath.values import Lease
from egresslab.voter.addresses import Addresses
from egresslab.voter.ballot import Ballot
from egresslab.voter.files import MILLISECOND, LeaseReport, NodeReport, Report, write
from egresslab.voter.messages import Seen

PERIOD_NS = 1_000 * MILLISECOND
QUICK_NS = 50 * MILLISECOND
"""How often it is looked whether there is something new to say."""
LATENESS_SECONDS = 60
NEVER = 1 << 63


class Reporter:
    """Writes `path`; remembers what it said last."""

    def __init__(self, path: Path, realtime: bool) -> None:
        self._path = path
        self._realtime = realtime
        self._last: Report | None = None
        self._next_ns = self._next_full_ns = 0
        self._behind = False
        self._late_ns: list[int] = [0]
        self._alive: dict[str, bool] = {}

    def wake_ns(self, resting: bool) -> int:
        """When `run` has something to write. At rest a report is written when a view is told, which is as often; then
        only what there was no time for is due."""
        if resting:
            return self._next_ns if self._behind else NEVER
        return self._next_full_ns

    def run(
        self, now: int, unix: float, ballot: Ballot, addresses: Addresses, leases: Mapping[int, Lease], urgent: bool
    ) -> bool:
        """Write when due: at once if `urgent`, soon if something changed, else once a second. Whether it was written.
        Raises OSError when the file cannot be written."""
        full = now >= self._next_full_ns - QUICK_NS
        self._behind = not (urgent or full or now >= self._next_ns)
        if ballot.voting is None or self._behind:
            return False
        self._next_ns = now + QUICK_NS
        self._late_ns[-1] = max(self._late_ns[-1], ballot.late_ns)
        report = self._report(now, unix, ballot, addresses, leases)
        if not full and self._last is not None and _substance(report) == _substance(self._last):
            return False
        if full:
            self._next_full_ns = now + PERIOD_NS
            self._late_ns = [*self._late_ns[1 - LATENESS_SECONDS :], 0]
            ballot.late_ns = 0
        self._last = report
        write(self._path, report)
        return True

    def _report(
        self, now: int, unix: float, ballot: Ballot, addresses: Addresses, leases: Mapping[int, Lease]
    ) -> Report:
        assert ballot.voting is not None
        return Report(
            node=ballot.node,
            time=unix,
            generation=ballot.voting.generation,
            voter=ballot.council.voting,
            realtime=self._realtime,
            quorum=ballot.council.complete(now),
            late_ms=round(max(self._late_ns) / MILLISECOND, 1),
            down=ballot.missing_links,
            leases=tuple(self._lease(now, ballot, addresses, leases, group.lease) for group in ballot.voting.groups),
            nodes=tuple(self._nodes(now, ballot)),
        )

    def _lease(
        self, now: int, ballot: Ballot, addresses: Addresses, leases: Mapping[int, Lease], number: int
    ) -> LeaseReport:
        tenure, vote = ballot.tenures[number], ballot.votes[number]
        held = leases.get(number)
        return LeaseReport(
            lease=number,
            key=tenure.candidates.group.key,
            holder=tenure.holder.node if tenure.holder is not None else None,
            epoch=tenure.holder.epoch if tenure.holder is not None else 0,
            held=held is not None and held.held(now) and tenure.released < held.epoch,
            since=tenure.since,
            silent=number in addresses.silent or number in addresses.absent,
            duration_ms=tenure.candidates.group.pace.duration_ms,
            vote=vote.choice if ballot.council.voting else None,
            last_failover=tenure.last,
            conflicts=addresses.conflicts_of(number),
        )

    def _nodes(self, now: int, ballot: Ballot) -> list[NodeReport]:
        """The worst that is said of each node at any pace. What a majority said stays until one says otherwise."""
        found: dict[str, NodeReport] = {}
        for target in sorted(ballot.council.targets(now) | ballot.probed.keys(), key=lambda target: target.node):
            says, probed = ballot.council.says(now, target), ballot.probed.get(target)
            if says is not None:
                self._alive[target.node] = says is not Seen.LOST
            report = NodeReport(
                target.node,
                self._alive.get(target.node),
                probed.alive if probed is not None else None,
                probed.voice if probed is not None and probed.heard is not None else None,
                probed.rtt_ns // 1000 if probed is not None and probed.rtt_ns is not None else None,
            )
            other = found.get(target.node)
            found[target.node] = report if other is None or other.seen is not False else replace(report, seen=False)
        return list(found.values())


def _substance(report: Report) -> Report:
    """Without what always changes."""
    return replace(report, time=0.0, late_ms=0.0, nodes=tuple(replace(node, rtt_us=None) for node in report.nodes))
