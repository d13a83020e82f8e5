"""TCP passed on from one place to another, byte for byte: how the host reaches an API server inside a namespace.

The listener was bound where clients are and the process has moved to where the server is; TLS and everything above it
pass untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

_PIECE = 1 << 16
_CONNECT_S = 5.0


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _join(near: tuple[asyncio.StreamReader, asyncio.StreamWriter], host: str, port: int) -> None:
    try:
        async with asyncio.timeout(_CONNECT_S):
            far = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        near[1].transport.abort()
        return
    try:
        await asyncio.gather(_pump(near[0], far[1]), _pump(far[0], near[1]))
    finally:
        for _, writer in (near, far):
            writer.transport.abort()


@contextlib.asynccontextmanager
async def forwarding(listener: socket.socket, host: str, port: int) -> AsyncIterator[None]:
    """Pass every connection on while the context is open; one that finds nobody there is reset."""
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_join((reader, writer), host, port), name="forwarded connection")
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, sock=listener)
    try:
        yield
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
