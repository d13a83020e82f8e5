"""The servers that answer over http and https with the address they saw.

`/` and `/ip` give it as one line of text, `/json` gives {address, port, time, host, server}. The answer is read off the
connection itself: headers such as X-Forwarded-For are never believed.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

from egresslab.cluster.outside.config import OutsideConfig

EVERYWHERE = ("0.0.0.0", "::")
SHUTDOWN_S = 0.2


def _ends(request: web.Request) -> tuple[str, int, str]:
    """Peer's address and port, and our own address, of the connection that carries the request."""
    transport = request.transport
    if transport is None:
        raise web.HTTPBadRequest(text="the connection is gone")
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return str(peer[0]), int(peer[1]), str(own[0])


def application(config: OutsideConfig) -> web.Application:
    """The one application behind all servers."""

    async def address(request: web.Request) -> web.Response:
        return web.Response(text=f"{_ends(request)[0]}\n")

    async def details(request: web.Request) -> web.Response:
        peer, port, own = _ends(request)
        return web.json_response(
            {
                "address": peer,
                "port": port,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "host": request.host,
                "server": config.server_at(own),
            }
        )

    app = web.Application()
    app.add_routes([web.get("/", address), web.get("/ip", address), web.get("/json", details)])
    return app


@asynccontextmanager
async def serving(config: OutsideConfig) -> AsyncIterator[None]:
    """Listen on every address, http and https, IPv4 and IPv6; raises OSError when a port is taken."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(config.certificate, config.key)
    runner = web.AppRunner(application(config), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        for host in EVERYWHERE:
            await web.TCPSite(runner, host, config.http_port, backlog=1024).start()
            await web.TCPSite(runner, host, config.https_port, ssl_context=tls, backlog=1024).start()
        yield
    finally:
        await runner.cleanup()
