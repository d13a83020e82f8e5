"""Failovers counted where they are taken over, from what the voter of this node reports."""

from __future__ import annotations

import time
from collections import Counter

from egresslab.agent.reportfile import VOUCHED_S
from egresslab.voter.files import Cause, Failover, Report


class FailoverCounts:
    """Takes in one report after the other. What happened before the first is not counted."""

    def __init__(self) -> None:
        self._report: Report | None = None
        self._last: dict[str, Failover | None] = {}
        self.moves: Counter[tuple[str, Cause]] = Counter()
        """Take-overs by this node, by group and cause; 0 for each cause of a group that is known."""
        self.outage_s: dict[str, float] = {}
        """Seconds for which nobody held the group's lease, summed over these."""
        self.last_outage_s: dict[str, float] = {}
        """The same for the last of them, where it was measured."""

    @property
    def report(self) -> Report | None:
        """What the voter said last, if it still runs."""
        fresh = self._report is not None and time.time() - self._report.time < VOUCHED_S
        return self._report if fresh else None

    def take(self, report: Report) -> None:
        """What the voter said next."""
        first = self._report is None
        self._report = report
        for lease in report.leases:
            move = lease.last_failover
            known = self._last.get(lease.key)
            self._last[lease.key] = move
            self.moves.update({(lease.key, cause): 0 for cause in Cause})
            self.outage_s.setdefault(lease.key, 0.0)
            if first or move is None or move == known or move.target != report.node:
                continue
            self.moves[lease.key, move.cause] += 1
            if move.outage_ms is not None:
                self.outage_s[lease.key] += move.outage_ms / 1000
                self.last_outage_s[lease.key] = move.outage_ms / 1000
