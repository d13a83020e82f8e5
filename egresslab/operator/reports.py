"""What is wrong with a policy, said where its owner looks: an Event on the object for each problem, once.

Cilium's policy kind has no status, so Events are the one place that works in every dialect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from egresslab.api.connection import Api
from egresslab.api.resources import Object
from egresslab.operator.events import Kind, write_event
from egresslab.operator.looking import keep_looking
from egresslab.policy.entries import Problem

logger = logging.getLogger(__name__)

RETRY_S = 1.0


class ProblemReports:
    """Compares the problems of now with those already said; the difference becomes Events."""

    def __init__(self, api: Api, find: Callable[[], dict[Problem, Object]]) -> None:
        """`find` says what is wrong now, each problem with the object concerned."""
        self._api = api
        self._find = find
        self._said: dict[Problem, Object] = {}
        self.wake = asyncio.Event()
        """Set by the owner whenever something may have changed; many changes in a burst are one look."""

    async def run(self) -> None:
        """Say what is new, and that something is over, until cancelled."""
        await keep_looking(self._say, self.wake, "write an event", retry_s=RETRY_S)

    async def _say(self) -> None:
        wanted = self._find()
        for problem, obj in wanted.items():
            if problem not in self._said:
                await write_event(self._api, obj, Kind.WARNING, problem.reason, problem.message)
                self._said[problem] = obj
        still_wrong = {problem.ref for problem in wanted}
        for problem, obj in list(self._said.items()):
            if problem not in wanted:
                if problem.ref not in still_wrong:
                    message = f"no longer: {problem.reason}: {problem.message}"
                    await write_event(self._api, obj, Kind.NORMAL, "Resolved", message)
                del self._said[problem]
