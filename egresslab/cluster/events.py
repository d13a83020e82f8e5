"""Events as Kubernetes' components write them: one object for each distinct happening, counted when it repeats.

Recording never waits and never fails its caller; events are told in order by one task, and those that find no room or
no API server are dropped with a line in the log, since an event is a message to people and never state.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.resources import EVENTS, Object

logger = logging.getLogger(__name__)

BACKLOG = 2000
REMEMBERED = 4096
MESSAGE_LIMIT = 1024


class EventType(StrEnum):
    """`type` of a core/v1 Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class _Happening:
    regarding: tuple[tuple[str, str], ...]
    type: EventType
    reason: str
    message: str

    @property
    def namespace(self) -> str:
        return dict(self.regarding).get("namespace") or "default"


def timestamp(moment: datetime) -> str:
    """`metav1.Time`: RFC 3339 in UTC with whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> str:
    """The present as `metav1.Time`."""
    return timestamp(datetime.now(UTC))


class EventRecorder:
    """Events of one component; `run` is the task that sends them."""

    def __init__(self, api: Api, component: str, host: str = "") -> None:
        self._api = api
        self._component = component
        self._host = host
        self._queue: asyncio.Queue[tuple[_Happening, str]] = asyncio.Queue(BACKLOG)
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._begun = time.time_ns()

    def record(self, obj: Object, type: EventType, reason: str, message: str, *, field_path: str | None = None) -> None:
        """Note that `reason` happened to `obj`; `field_path` such as `spec.containers{web}` narrows it down."""
        metadata = obj["metadata"]
        regarding = {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "name": metadata["name"],
            "namespace": metadata.get("namespace", ""),
            "uid": metadata["uid"],
            "fieldPath": field_path or "",
        }
        given = tuple((name, str(value)) for name, value in regarding.items() if value)
        try:
            self._queue.put_nowait((_Happening(given, type, reason, message[:MESSAGE_LIMIT]), now()))
        except asyncio.QueueFull:
            logger.warning("event dropped, %d are waiting: %s %s", BACKLOG, reason, metadata["name"])

    async def run(self) -> None:
        """Send what is recorded, until cancelled."""
        while True:
            happening, moment = await self._queue.get()
            try:
                await self._send(happening, moment)
            except (ApiError, Unreachable) as error:
                logger.info("event dropped: %s %s: %s", happening.reason, dict(happening.regarding)["name"], error)
            finally:
                self._queue.task_done()

    async def _send(self, happening: _Happening, moment: str) -> None:
        name = self._name(happening)
        count = self._counts.get(name, 0) + 1
        if count > 1:
            change: Object = {"count": count, "lastTimestamp": moment}
            try:
                await self._api.patch(EVENTS, name, change, happening.namespace)
            except ApiError as error:
                if error.status != 404:
                    raise
                count = 1
        if count == 1:
            await self._create(name, happening, moment)
        self._counts[name] = count
        self._counts.move_to_end(name)
        while len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    async def _create(self, name: str, happening: _Happening, moment: str) -> None:
        source = {"component": self._component} | ({"host": self._host} if self._host else {})
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": happening.namespace},
            "involvedObject": dict(happening.regarding),
            "reason": happening.reason,
            "message": happening.message,
            "type": happening.type.value,
            "source": source,
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }
        await self._api.create(EVENTS, event, happening.namespace)

    def _name(self, happening: _Happening) -> str:
        """The same happening has the same name while this recorder lives. Another life counts anew, as in Kubernetes:
        a kubelet may create and patch events, and read none."""
        identity = repr((happening, self._component, self._host, self._begun)).encode()
        digest = hashlib.blake2b(identity, digest_size=8).hexdigest()
        return f"{dict(happening.regarding)['name'][:200]}.{digest}"
