"""Keeps the statuses of all gateways equal to what is observed, and says in Events what happened between two looks.

An Event goes out before the status that shows the change: if we die in between, whoever looks next finds the change
still to be told, and the Event's name, made of the moment, keeps it from being told twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from egresslab.api.connection import Api
from egresslab.api.resources import Object, Resource
from egresslab.operator.conditions import Truth, status_of
from egresslab.operator.events import Kind, write_event
from egresslab.operator.gateways import GatewayView
from egresslab.operator.gatewaystatus import (
    CAUSES,
    CONFLICT,
    PLANNED,
    READY,
    GatewayStatus,
    active_field,
    claims_in_words,
    described,
    status_of_refused,
    status_of_view,
)
from egresslab.operator.looking import keep_looking
from egresslab.operator.statuses import Statuses
from egresslab.policy.model import Dialect

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
RETRY_S = 1.0
ELECTION_S = 2.0
"""A gateway without a holder that others could be is between two holders; for longer, it has none."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One gateway object and what is true of it: its view, or why it was refused where no version is in force."""

    resource: Resource
    obj: Object
    view: GatewayView | None
    dialect: Dialect
    refused: str = ""


class News(NamedTuple):
    """One thing that happened; `moment` tells it from the same thing at another time."""

    kind: Kind
    reason: str
    message: str
    moment: str


class GatewayReports:
    """Statuses and Events of gateways; `find` gives all of them as they are now."""

    def __init__(
        self, api: Api, find: Callable[[], Iterable[Watched]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._find = find
        self._clock = clock
        self._statuses = Statuses(api)
        self._electing_since: dict[str, float] = {}
        self._told: dict[str, float] = {}
        """For each gateway, when the last move happened that was told."""
        self._there: set[str] = set()
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Look when woken, and once a second while there is a gateway; until cancelled."""
        self.wake.set()
        task = "write a gateway's status"
        await keep_looking(
            self.look, self.wake, task, retry_s=RETRY_S, every_s=PERIOD_S, resting=lambda: not self._there
        )

    async def look(self) -> None:
        """Compare every gateway with its status and write the difference."""
        found = list(self._find())
        self._there = {watched.obj["metadata"]["uid"] for watched in found}
        for watched in found:
            uid = watched.obj["metadata"]["uid"]
            if watched.view is None:
                status = status_of_refused(watched.dialect, watched.refused)
                await self._statuses.write(watched.resource, watched.obj, status.fields, status.conditions)
            elif not self._between_holders(uid, watched.view):
                await self._write(watched, watched.view)
        for memory in (self._electing_since, self._told):
            for uid in memory.keys() - self._there:
                del memory[uid]
        self._statuses.keep(self._there)

    def _between_holders(self, uid: str, view: GatewayView) -> bool:
        if not view.electing:
            self._electing_since.pop(uid, None)
            return False
        return self._clock() - self._electing_since.setdefault(uid, self._clock()) < ELECTION_S

    async def _write(self, watched: Watched, view: GatewayView) -> None:
        uid = watched.obj["metadata"]["uid"]
        status = status_of_view(view)
        before = self._statuses.present(watched.obj)
        for news in self._news(uid, before, status, view):
            await write_event(self._api, watched.obj, news.kind, news.reason, news.message, news.moment)
        if view.failover is not None:
            self._told[uid] = view.failover.time
        await self._statuses.write(watched.resource, watched.obj, status.fields, status.conditions)

    def _news(self, uid: str, before: Object, status: GatewayStatus, view: GatewayView) -> Iterable[News]:
        old, new = _conditions(before), {c.type: str(c.status) for c in status.conditions}
        since = _transition(before, READY)
        if old.get(READY) == Truth.TRUE and new[READY] == Truth.FALSE:
            yield News(Kind.WARNING, "NoGateway", described(view), since)
        if old.get(READY) == Truth.FALSE and new[READY] == Truth.TRUE:
            yield News(Kind.NORMAL, "Recovered", described(view), since)
        if view.conflicts and old.get(CONFLICT, str(Truth.of(_claimed(before)))) != Truth.TRUE:
            moment = _transition(before, CONFLICT) if CONFLICT in new else f"{view.conflicts[0].time:.0f}"
            yield News(Kind.WARNING, "AddressConflict", claims_in_words(view), moment)
        yield from self._move(uid, before.get(active_field(view.key.dialect)), view)

    def _move(self, uid: str, active_before: object, view: GatewayView) -> Iterable[News]:
        move = view.failover
        if move is None or view.active is None:
            return
        told = self._told.get(uid)
        if told is None and (not active_before or active_before == view.active):
            return  # Said by an operator before this one, or it never had another.
        if told is not None and move.time <= told:
            return
        outage = "" if move.outage_ms is None else f", {move.outage_ms:.0f} ms without a gateway"
        if move.outage_ms == 0:
            outage = ", at no moment without a gateway"
        message = f"from {move.origin or 'nobody'} to {move.target} ({CAUSES[move.cause]}{outage})"
        kind, reason = (Kind.NORMAL, "Moved") if move.cause in PLANNED else (Kind.WARNING, "FailedOver")
        yield News(kind, reason, message, f"{move.time:.3f}")


def _conditions(status: Object) -> dict[str, str]:
    return {kind: said for kind in (READY, CONFLICT) if (said := status_of(status.get("conditions"), kind)) is not None}


def _transition(status: Object, kind: str) -> str:
    """When the condition became what it was before the change: names the change, whoever tells it."""
    for item in status.get("conditions") or ():
        if item.get("type") == kind:
            return str(item.get("lastTransitionTime"))
    return "first"


def _claimed(status: Object) -> bool:
    """Whether a status that has no condition for conflicts tells of one in its message (Deckhouse's)."""
    return any(" claims " in str(item.get("message")) for item in status.get("conditions") or ())
