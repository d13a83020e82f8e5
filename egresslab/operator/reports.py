"""What is wrong with a policy, said where its owner looks: an Event on the object for each problem, once.

Cilium's policy kind has no status, so Events are the one place that works in every dialect.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.resources import EVENTS, Object
from egresslab.policy.entries import Problem

logger = logging.getLogger(__name__)

COMPONENT = "egresslab-operator"
EVENTS_NAMESPACE = "default"
"""Where Kubernetes keeps the Events of cluster-scoped objects."""
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
        while True:
            await self.wake.wait()
            self.wake.clear()
            try:
                await self._say()
            except (ApiError, Unreachable) as error:
                logger.warning("cannot write an event: %s", error)
                await asyncio.sleep(RETRY_S)
                self.wake.set()

    async def _say(self) -> None:
        wanted = self._find()
        for problem, obj in wanted.items():
            if problem not in self._said:
                await self._write(obj, "Warning", problem.reason, problem.message)
                self._said[problem] = obj
        still_wrong = {problem.subject for problem in wanted}
        for problem, obj in list(self._said.items()):
            if problem not in wanted:
                if problem.subject not in still_wrong:
                    await self._write(obj, "Normal", "Resolved", f"no longer: {problem.reason}: {problem.message}")
                del self._said[problem]

    async def _write(self, obj: Object, kind: str, reason: str, message: str) -> None:
        """Create the Event, or count it up when the same was said by an operator before this one."""
        metadata = obj["metadata"]
        digest = hashlib.sha256(f"{metadata['uid']}{reason}{message}".encode()).hexdigest()[:16]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": EVENTS_NAMESPACE},
            "involvedObject": {
                "apiVersion": obj["apiVersion"],
                "kind": obj["kind"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": kind,
            "reason": str(reason),
            "message": message,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._api.create(EVENTS, event, EVENTS_NAMESPACE)
        except ApiError as error:
            if error.status != 409:
                raise
            name = event["metadata"]["name"]
            known = await self._api.get(EVENTS, name, EVENTS_NAMESPACE)
            counted = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": now}
            await self._api.patch(EVENTS, name, counted, EVENTS_NAMESPACE)
