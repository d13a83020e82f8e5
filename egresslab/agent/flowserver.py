"""Flow events for people: JSON lines over a unix socket, `GET /flows?last=N&follow=true`.

Whoever may exec into the agent's container may read them; nothing is offered on the network. The fields are a contract
(docs/contracts.md, "Flow events").
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from egresslab.agent.flowstream import KEPT, FlowStream, SeenFlow
from egresslab.agent.serving import serving
from egresslab.datapath.values import Protocol

SECOND = 1_000_000_000
TRUE = frozenset({"", "1", "true", "yes"})


@asynccontextmanager
async def serve_flows(socket: Path, node: str, stream: FlowStream) -> AsyncIterator[None]:
    """Answer on the unix socket while the context is open."""

    clock = WallClock()

    async def answer(request: web.Request) -> web.StreamResponse:
        follow = request.query.get("follow", "false").lower() in TRUE
        text = request.query.get("last", "0" if follow else str(KEPT))
        if not text.isdecimal():
            return web.json_response({"message": f"last must be a number, not {text}"}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with stream.subscribe() as subscription:
            past = stream.last(int(text))
            try:
                await response.prepare(request)
                await response.write(lines(node, past, clock) + (b"\n" if follow else b""))
                while follow:
                    await response.write(lines(node, await subscription.next(), clock))
            except ConnectionResetError:
                # Whoever followed has seen enough.
                return response
        return response

    application = web.Application()
    application.router.add_get("/flows", answer)
    # A follower never ends by itself, so nobody waits for it when the agent stops; one that leaves is let go at once.
    async with serving(application, socket, shutdown_timeout=0.1, handler_cancellation=True):
        yield


class WallClock:
    """What the wall clock is ahead of CLOCK_MONOTONIC, kept as it is until the wall clock is set or has drifted: so an
    event has the same time whenever it is told."""

    TOLERATED_NS = 1_000_000

    def __init__(self) -> None:
        self._offset_ns = _offset_ns()

    def offset_ns(self) -> int:
        now = _offset_ns()
        if abs(now - self._offset_ns) > self.TOLERATED_NS:
            self._offset_ns = now
        return self._offset_ns


def _offset_ns() -> int:
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def lines(node: str, flows: Iterable[SeenFlow], clock: WallClock) -> bytes:
    """Events as JSON lines."""
    offset = clock.offset_ns()
    return b"".join(orjson.dumps(as_json(node, seen, offset), option=orjson.OPT_APPEND_NEWLINE) for seen in flows)


def as_json(node: str, seen: SeenFlow, offset_ns: int) -> dict[str, Any]:
    """One event; `offset_ns` is what the wall clock is ahead of CLOCK_MONOTONIC."""
    event = seen.event
    return {
        "time": _rfc3339(event.time_ns + offset_ns),
        "node": node,
        "event": event.event.name,
        "pod": {
            "namespace": seen.pod.namespace if seen.pod else None,
            "name": seen.pod.name if seen.pod else None,
            "ip": str(event.pod),
            "port": event.pod_port,
        },
        "destination": {"ip": str(event.remote), "port": event.remote_port},
        "egress": {"ip": str(event.egress), "port": event.egress_port} if event.egress is not None else None,
        "gateway": seen.gateway,
        "protocol": _protocol(event.protocol),
        "verdict": "DROPPED" if event.reason.dropped else "FORWARDED",
        "reason": event.reason.name if event.reason.dropped else None,
        "lost": seen.lost,
    }


def _protocol(number: int) -> str:
    try:
        return Protocol(number).name
    except ValueError:
        return str(number)


def _rfc3339(time_ns: int) -> str:
    """With nanoseconds, which `datetime` does not have (RFC 3339, section 5.6)."""
    moment = datetime.fromtimestamp(time_ns // SECOND, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % SECOND:09d}Z"
