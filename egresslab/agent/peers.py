"""Agents asking each other: does your kernel hold this pod's entries yet? And the operator: what does your voter see?

A pod's first packet needs entries on its own node and on its gateway. The agent of the pod's node asks the gateway's
before it opens the gate. Nothing but a yes or no travels, and forwarding never waits for an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Self

import aiohttp
from aiohttp import web

from egresslab.agent.serving import serving
from egresslab.voter.files import Report, dump

logger = logging.getLogger(__name__)

PORT, ANNOUNCER_PORT = 9879, 9889
"""TCP, on the node's InternalIP. An announcer may run beside an agent."""
PATIENCE_S = 2.0
"""How long a gateway may take. One that is silent for so long is dead or cut off: it forwards nothing in any case, and
a pod that waited for it would never start."""

Holds = Callable[[str, float], Awaitable[bool]]
"""Whether the entries of the pod with that UID are in this node's kernel within so many seconds."""


@asynccontextmanager
async def serve_peers(
    address: IPv4Address, holds: Holds, report: Callable[[], Report | None], port: int = PORT
) -> AsyncIterator[None]:
    """Answer on the node's address: `GET /pods/UID` with 204 once the kernel holds the pod's entries, else 404;
    `GET /gateways` with what this node's voter observes (`Report`), 503 while it says nothing."""

    async def answer(request: web.Request) -> web.Response:
        held = await holds(request.match_info["uid"], PATIENCE_S)
        return web.Response(status=204 if held else 404)

    async def gateways(_: web.Request) -> web.Response:
        known = report()
        if known is None:
            return web.json_response({"message": "the voter of this node has not reported lately"}, status=503)
        return web.Response(text=dump(known), content_type="application/json")

    application = web.Application()
    application.router.add_get("/gateways", gateways)
    application.router.add_get("/pods/{uid}", answer)
    async with serving(application, (str(address), port)):
        yield


class Peers:
    """The agents of other nodes, asked over connections that are kept while the context is open."""

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=2 * PATIENCE_S, connect=PATIENCE_S)
        self._session = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def wait_programmed(self, uid: str, gateways: Iterable[IPv4Address]) -> None:
        """Return when every gateway holds the pod's entries, or could not be asked."""
        await asyncio.gather(*(self._ask(uid, gateway) for gateway in gateways))

    async def _ask(self, uid: str, gateway: IPv4Address) -> None:
        try:
            async with self._session.get(f"http://{gateway}:{PORT}/pods/{uid}") as answer:
                if answer.status != 204:
                    logger.warning("gateway %s does not hold the entries of pod %s yet", gateway, uid)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("gateway %s could not be asked about pod %s: %r", gateway, uid, error)
