"""What the nodes see of the gateways, asked of their agents over the data network: the one source of what a status
says about leases.

An agent that does not answer in time has said nothing. What an earlier answer said is not kept: a status must be able
to say that nobody knows. While there is nothing to be known, nobody is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import aiohttp

from egresslab.agent.peers import PORT
from egresslab.voter.files import Report, parse_report

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
HASTE_S = 0.1
"""The least time between two rounds, however often something wakes the observer."""
DEADLINE_S = 0.8
TOGETHER = 32
"""How many agents are asked at the same time."""
LONGEST_ANSWER = 1 << 20


class Observer:
    """Asks all `targets` (node name to address) once a second and when woken; `reports` has the last round's answers.

    Where `targets` gives None there is nothing to observe, and it rests until woken. `on_change` is called after a
    round that told something new.
    """

    def __init__(
        self,
        targets: Callable[[], Mapping[str, IPv4Address] | None],
        on_change: Callable[[], None],
        port: Callable[[], int] = lambda: PORT,
    ) -> None:
        self._targets = targets
        self._on_change = on_change
        self._port = port
        self.reports: dict[str, Report] = {}
        self.asked: frozenset[str] = frozenset()
        """Who was asked in the last round."""
        self.looked = False
        """Whether there has been a round since there is something to observe."""
        self.wake = asyncio.Event()

    def forget(self) -> None:
        """As before the first round: others are to be asked, or nobody."""
        self.reports, self.looked = {}, False

    async def run(self) -> None:
        """Ask until cancelled."""
        limit = aiohttp.TCPConnector(limit=TOGETHER)
        async with aiohttp.ClientSession(connector=limit, trust_env=False) as session:
            while True:
                self.wake.clear()
                targets = self._targets()
                if targets is None:
                    self.forget()
                    await self.wake.wait()
                    continue
                await self._round(session, targets)
                await asyncio.sleep(HASTE_S)
                try:
                    async with asyncio.timeout(PERIOD_S - HASTE_S):
                        await self.wake.wait()
                except TimeoutError:
                    continue

    async def _round(self, session: aiohttp.ClientSession, targets: Mapping[str, IPv4Address]) -> None:
        answers = await asyncio.gather(*(self._ask(session, node, address) for node, address in targets.items()))
        before, asked = self.reports, self.asked if self.looked else None
        self.looked = True
        self.asked = frozenset(targets)
        self.reports = {report.node: report for report in answers if report is not None}
        if asked != self.asked or _news(before) != _news(self.reports):
            self._on_change()

    async def _ask(self, session: aiohttp.ClientSession, node: str, address: IPv4Address) -> Report | None:
        url = f"http://{address}:{self._port()}/gateways"
        try:
            async with (
                asyncio.timeout(DEADLINE_S),
                session.get(url) as answer,
            ):
                if answer.status != 200 or (answer.content_length or 0) > LONGEST_ANSWER:
                    return None
                raw: Any = await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None
        try:
            report = parse_report(raw)
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("node %s answered what is no report: %r", node, error)
            return None
        return report if report.node == node else None


def _news(reports: Mapping[str, Report]) -> dict[str, Report]:
    """Reports without what changes all the time and means nothing."""
    return {
        node: replace(
            report,
            time=0.0,
            late_ms=0.0,
            nodes=tuple(replace(seen, rtt_us=None) for seen in report.nodes),
            leases=tuple(
                replace(lease, conflicts=tuple(replace(claim, time=0.0) for claim in lease.conflicts))
                for lease in report.leases
            ),
        )
        for node, report in reports.items()
    }
