"""The echo port: what came is sent back with the address and port it came from in front.

TCP: for every line `ADDRESS PORT LINE`, on a connection that stays open as long as the client likes; drills keep one
open through a failover. UDP: the same for every datagram, from the very address the datagram was sent to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import cast

LONGEST_LINE = 64 << 10


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("peername")
    try:
        while line := await reader.readline():
            writer.write(f"{peer[0]} {peer[1]} ".encode() + line)
            await writer.drain()
    except (ConnectionError, TimeoutError, ValueError):
        # Clients that vanish or that send lines without end are none of our business.
        writer.transport.abort()
    finally:
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one without saying so.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if self._transport is not None:
            self._transport.sendto(f"{addr[0]} {addr[1]} ".encode() + data, addr)


@asynccontextmanager
async def echoing(addresses: tuple[IPv4Address | IPv6Address, ...], port: int) -> AsyncIterator[None]:
    """Answer on `port` of every address; raises OSError when it is taken."""
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(_converse, ["0.0.0.0", "::"], port, limit=LONGEST_LINE, backlog=1024)
    transports: list[asyncio.DatagramTransport] = []
    try:
        for address in addresses:
            # One socket for each address: a wildcard socket would answer from whatever address routing prefers.
            transport, _ = await loop.create_datagram_endpoint(_Datagrams, local_addr=(str(address), port))
            transports.append(transport)
        yield
    finally:
        for opened in transports:
            opened.close()
        server.close()
