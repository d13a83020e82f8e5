"""Agents asking each other: does your kernel hold this pod's entries yet? And the operator: what does your voter see?

A pod's first packet needs entries on its own node and on its gateway. The agent of the pod's node asks the gateway's
before it opens the gate, and tells it the pod's addresses where the API does not tell them yet. An agent is believed
for pods of its own node alone, and forwarding never waits for an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Self

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
MOST_ADDRESSES = 8


@dataclass(frozen=True, slots=True)
class Word:
    """What a pod's node says of it before the API does."""

    namespace: str
    name: str
    uid: str
    addresses: tuple[IPv4Address | IPv6Address, ...]

    @classmethod
    def parse(cls, uid: str, body: Any) -> Word:
        """From a request; raises ValueError, KeyError or TypeError for one that means nothing."""
        addresses = tuple(ip_address(str(text)) for text in body["addresses"])
        if not 0 < len(addresses) <= MOST_ADDRESSES:
            raise ValueError(f"{len(addresses)} addresses")
        return cls(str(body["namespace"]), str(body["name"]), uid, addresses)

    @property
    def body(self) -> dict[str, Any]:
        """As it travels."""
        return {"namespace": self.namespace, "name": self.name, "addresses": [str(one) for one in self.addresses]}


Holds = Callable[[str, float], Awaitable[bool]]
"""Whether the entries of the pod with that UID are in this node's kernel within so many seconds."""
Takes = Callable[[Word, IPv4Address, float], Awaitable[bool]]
"""The same, of a pod of which the node with that address says something."""


@asynccontextmanager
async def serve_peers(
    address: IPv4Address,
    holds: Holds,
    report: Callable[[], Report | None],
    port: int = PORT,
    takes: Takes | None = None,
) -> AsyncIterator[None]:
    """Answer on the node's address: `GET /pods/UID` with 204 once the kernel holds the pod's entries, else 404; `PUT`
    the same after taking the pod's addresses, where `takes` is given; `GET /gateways` with what this node's voter
    observes (`Report`), 503 while it says nothing."""

    async def answer(request: web.Request) -> web.Response:
        held = await holds(request.match_info["uid"], PATIENCE_S)
        return web.Response(status=204 if held else 404)

    async def take(request: web.Request) -> web.Response:
        try:
            word = Word.parse(request.match_info["uid"], await request.json())
            peer = IPv4Address(request.remote or "")
        except (ValueError, KeyError, TypeError) as error:
            return web.json_response({"message": f"not what is said of a pod: {error!r}"}, status=400)
        held = takes is not None and await takes(word, peer, PATIENCE_S)
        return web.Response(status=204 if held else 404)

    async def gateways(_: web.Request) -> web.Response:
        known = report()
        if known is None:
            return web.json_response({"message": "the voter of this node has not reported lately"}, status=503)
        return web.Response(text=dump(known), content_type="application/json")

    application = web.Application()
    application.router.add_get("/gateways", gateways)
    application.router.add_get("/pods/{uid}", answer)
    if takes is not None:
        application.router.add_put("/pods/{uid}", take)
    async with serving(application, (str(address), port)):
        yield


class Peers:
    """The agents of other nodes, asked over connections that are kept while the context is open.

    `source` gives the address by which they know this node.
    """

    def __init__(self, source: Callable[[], IPv4Address]) -> None:
        self._source = source

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=2 * PATIENCE_S, connect=PATIENCE_S)
        connector = aiohttp.TCPConnector(local_addr=(str(self._source()), 0))
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def wait_programmed(self, uid: str, gateways: Iterable[IPv4Address], word: Word | None = None) -> None:
        """Return when every gateway holds the pod's entries, or could not be asked; `word` is told them first."""
        await asyncio.gather(*(self._ask(uid, gateway, word) for gateway in gateways))

    async def _ask(self, uid: str, gateway: IPv4Address, word: Word | None) -> None:
        verb, body = ("GET", None) if word is None else ("PUT", word.body)
        try:
            async with self._session.request(verb, f"http://{gateway}:{PORT}/pods/{uid}", json=body) as answer:
                if answer.status != 204:
                    logger.warning("gateway %s does not hold the entries of pod %s yet", gateway, uid)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("gateway %s could not be asked about pod %s: %r", gateway, uid, error)
