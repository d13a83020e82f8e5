"""What the voter of this node observed: `voter.json`, followed from one version to the next."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import inotify_simple

from egresslab.voter.files import Report, read_report

logger = logging.getLogger(__name__)

VOUCHED_S = 3.0
"""An older report is nobody's word: the voter writes one a second."""


class ReportFile:
    """Reads the file whenever another is put in its place and hands it on."""

    def __init__(self, path: Path, on_report: Callable[[Report], None]) -> None:
        self._path = path
        self._on_report = on_report
        self.report: Report | None = None
        """What was read last, however old."""

    @property
    def fresh(self) -> Report | None:
        """What the voter says now; None when it has not said anything lately."""
        report = self.report
        return report if report is not None and abs(time.time() - report.time) < VOUCHED_S else None

    async def run(self) -> None:
        """Follow until cancelled."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        with inotify_simple.INotify(nonblocking=True) as watch:
            watch.add_watch(self._path.parent, inotify_simple.flags.MOVED_TO)
            loop.add_reader(watch.fileno(), arrived.set)
            try:
                self.look()
                while True:
                    await arrived.wait()
                    arrived.clear()
                    if any(event.name == self._path.name for event in watch.read(timeout=0)):
                        self.look()
            finally:
                loop.remove_reader(watch.fileno())

    def look(self) -> None:
        """Read it now."""
        try:
            report = read_report(self._path)
        except ValueError as error:
            logger.warning("not a voter's report: %s", error)
            return
        if report is not None:
            self.report = report
            self._on_report(report)
