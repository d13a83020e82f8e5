"""Keeps the ConfigMap that says who votes.

The first set is written at once. A later one is written only when the one before has been in force for as long as a
grant lasts and every node that is alive counts by it: never may three sets be in use at the same time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from egresslab.api.connection import Api
from egresslab.api.reflector import Reflector
from egresslab.api.resources import CONFIGMAPS, Object
from egresslab.api.voters import NAME, NAMESPACE, VoterSet, parse_voters, voters_configmap
from egresslab.errors import ClusterError
from egresslab.operator.electorate import Elector, next_voters
from egresslab.operator.looking import keep_looking

logger = logging.getLogger(__name__)

PERIOD_S = 0.5
RETRY_S = 0.5
PATIENCE_S = 10.0
"""For how long a voter may be unfit before another takes its place: an agent that is updated is away for less."""
SHORTEST_REIGN_S = 1.0


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a choice looks at. `counting`: node to the version it counts by, of nodes that said so; `alive`: nodes that
    should say so; `grant_s`: how long the longest grant lasts."""

    electors: Collection[Elector]
    counting: Mapping[str, int]
    alive: Collection[str]
    grant_s: float


class Registrar:
    """Writes the next set of voters whenever it may; `look` gives the situation as it is now."""

    def __init__(
        self,
        api: Api,
        look: Callable[[], Ballot],
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._look = look
        self._on_change = on_change
        self._clock = clock
        self._configmaps = Reflector(
            api,
            CONFIGMAPS,
            lambda change: self.wake.set(),
            namespace=NAMESPACE,
            field_selector=f"metadata.name={NAME}",
        )
        self._unfit_since: dict[str, float] = {}
        self._changed_at = clock()
        self._latest: VoterSet | None = None
        self._waiting_for: frozenset[str] = frozenset()
        self.pending = False
        """Whether another set is wanted: then it counts by which one each node goes."""
        self.wake = asyncio.Event()

    @property
    def voters(self) -> VoterSet | None:
        """Who votes, as last written or read."""
        return self._latest

    async def run(self) -> None:
        """Keep the ConfigMap until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._configmaps.run())
            await self._configmaps.synced.wait()
            self.wake.set()
            await keep_looking(
                self._step, self.wake, "write the voters", retry_s=RETRY_S, every_s=PERIOD_S, resting=self._content
            )

    def _content(self) -> bool:
        """Whether the voters are as wanted, and stay so until something happens."""
        return not self.pending and not self._unfit_since

    async def _step(self) -> None:
        there = self._configmaps.get(NAME, NAMESPACE)
        self._read(there)
        ballot = self._look()
        # Also while nothing may be written: how long somebody has been unfit counts from now on.
        electors = self._patient(ballot.electors)
        if there is None and self._latest is not None:
            # Somebody deleted it. Nodes go on with what they have, so the same set comes back under its own version.
            wanted: VoterSet | None = self._latest
        else:
            wanted = next_voters(self._latest, electors)
            if self.pending != (wanted != self._latest):
                self.pending = not self.pending
                self._on_change()
            if not self.pending or not (self._latest is None or self._may_change(self._latest, ballot)):
                return
        if wanted is not None:
            await self._write(wanted, there)

    def _read(self, configmap: Object | None) -> None:
        if configmap is None:
            return
        try:
            read = parse_voters(configmap)
        except ClusterError as error:
            logger.warning("%s; writing it anew", error)
            return
        if self._latest is None or read.version > self._latest.version:
            self._adopt(read)

    def _adopt(self, voters: VoterSet) -> None:
        self._latest = voters
        self._changed_at = self._clock()
        self._on_change()

    def _patient(self, electors: Collection[Elector]) -> list[Elector]:
        """Present voters that have been unfit for a short time only still count as fit."""
        now = self._clock()
        unfit = {elector.name for elector in electors if not elector.fit}
        self._unfit_since = {name: self._unfit_since.get(name, now) for name in unfit}
        present = self._latest.nodes if self._latest else ()
        return [
            Elector(elector.name, True, elector.candidate)
            if elector.name in present and now - self._unfit_since.get(elector.name, now) < PATIENCE_S
            else elector
            for elector in electors
        ]

    def _may_change(self, present: VoterSet, ballot: Ballot) -> bool:
        if self._clock() - self._changed_at < max(SHORTEST_REIGN_S, ballot.grant_s):
            return False
        behind = frozenset(node for node in ballot.alive if ballot.counting.get(node) != present.version)
        if behind and behind != self._waiting_for:
            logger.info("voters stay until these count by version %d: %s", present.version, ", ".join(sorted(behind)))
        self._waiting_for = behind
        return not behind

    async def _write(self, voters: VoterSet, there: Object | None) -> None:
        body = voters_configmap(voters)
        if there is None:
            await self._api.create(CONFIGMAPS, body, NAMESPACE)
        else:
            body["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
            await self._api.replace(CONFIGMAPS, body)
        logger.info("voters, version %d: %s", voters.version, ", ".join(voters.nodes))
        self._adopt(voters)
