"""The gate before a pod's first packet: the kubelet asks here before it starts a pod's containers.

It is a network plug-in in the sense of CNI's chained plug-ins, over a unix socket. An answer of 200 means that a pod's
link carries our program and that the kernel holds the pod's entries; until then the pod does not run, so nothing leaks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from aiohttp import web

from egresslab.agent.chain import Call, ChainError, Code, OnCall, refusal
from egresslab.agent.serving import serving
from egresslab.errors import DatapathError

logger = logging.getLogger(__name__)

PLUGIN_FILE = "10-egresslab.json"
PARTING_S = 0.5
"""How long an agent that ends goes on answering; whoever is not answered asks the next one."""
LARGEST = 2 << 20
"""Bytes of a request: what the chained plug-in hands over at most, and room."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's network as the kubelet made it: its addresses and the host side of its link."""

    namespace: str
    name: str
    uid: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    host_interface: str

    @classmethod
    def parse(cls, body: Any) -> Sandbox:
        """From a request body; raises ValueError or KeyError for one that is not a sandbox."""
        return cls(
            namespace=str(body["namespace"]),
            name=str(body["name"]),
            uid=str(body["uid"]),
            addresses=tuple(ip_address(address) for address in body["ips"]),
            host_interface=str(body["host_interface"]),
        )


Handler = Callable[[Sandbox], Awaitable[None]]


@asynccontextmanager
async def serve_gate(
    socket: Path, on_add: Handler, on_del: Handler, on_call: OnCall | None = None
) -> AsyncIterator[None]:
    """Answer `POST /cni/add` and `/cni/del` on the unix socket while the context is open, and `/cni/chain` with
    `on_call`.

    `on_add` returns when the pod may run; a `DatapathError` from it is answered with 503 and its text, and the kubelet
    asks again. The chained plug-in, whose answers are CNI's, does the same.
    """

    def answering(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            try:
                sandbox = Sandbox.parse(await request.json())
            except (ValueError, KeyError, TypeError) as error:
                return web.json_response({"message": f"not a sandbox: {error!r}"}, status=400)
            try:
                await handler(sandbox)
            except DatapathError as error:
                logger.warning("pod %s/%s waits: %s", sandbox.namespace, sandbox.name, error)
                return web.json_response({"message": str(error)}, status=503)
            return web.json_response({})

        return answer

    async def chained(request: web.Request) -> web.Response:
        try:
            call = Call.parse(await request.read())
        except ChainError as error:
            return _cni(503, refusal("", error.code, str(error)))
        try:
            if on_call is not None:
                await on_call(call)
        except DatapathError as error:
            logger.warning("a pod waits: %s", error)
            return _cni(503, refusal(call.version, Code.TRY_AGAIN_LATER, _said(error), error.fix or ""))
        return _cni(200, call.answer())

    application = web.Application(client_max_size=LARGEST)
    application.router.add_post("/cni/chain", chained)
    application.router.add_post("/cni/add", answering(on_add))
    application.router.add_post("/cni/del", answering(on_del))
    async with serving(application, socket, shutdown_timeout=PARTING_S):
        yield


def _cni(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _said(error: DatapathError) -> str:
    return f"{error.object}: {error.message}" if error.object else error.message


def install_plugin(directory: Path, socket: Path) -> None:
    """Tell the kubelet to ask: from now on pods of this node wait for the gate, also while the agent is away.

    `socket` is the path on the node, which our manifest mounts at the same place in the container.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / PLUGIN_FILE
    text = json.dumps({"name": "egresslab", "type": "socket", "path": str(socket)})
    if target.exists() and target.read_text() == text:
        return
    draft = target.with_suffix(".tmp")
    draft.write_text(text)
    draft.replace(target)
