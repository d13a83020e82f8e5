"""The cluster's DNS on every node, over UDP and TCP, at the one address that all pods ask.

It answers from memory and never asks anybody else: what it does not know does not exist.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import cast

from dnslib import AAAA, PTR, QTYPE, RCODE, RR, SOA, A, DNSError, DNSHeader, DNSRecord

from egresslab.cluster.node.names import Names, Unknown, reversed_address
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

PORT = 53
TTL_S = 5
UDP_LIMIT = 512
TCP_IDLE_S = 10.0


class Responder:
    """Turns a question's bytes into an answer's."""

    def __init__(self, names: Names, domain: str) -> None:
        self._names = names
        self._domain = domain

    def answer(self, packet: bytes, limit: int) -> bytes | None:
        """The answer, cut to `limit` bytes and marked as truncated when it is longer; None for what is no question."""
        try:
            query = DNSRecord.parse(packet)
        except DNSError:
            return None
        if query.header.qr or not query.questions:
            return None
        reply = DNSRecord(DNSHeader(id=query.header.id, qr=1, aa=1, ra=1, rd=query.header.rd), q=query.q)
        records = self._records(str(query.q.qname))
        if records is None:
            reply.header.rcode = RCODE.NXDOMAIN
        for kind, data in records or ():
            if query.q.qtype in (kind, QTYPE.ANY):
                reply.add_answer(RR(query.q.qname, kind, ttl=TTL_S, rdata=data))
        if not reply.rr:
            times = (1, 7200, 1800, 86400, TTL_S)
            authority = SOA(f"ns.dns.{self._domain}.", f"hostmaster.{self._domain}.", times)
            reply.add_auth(RR(f"{self._domain}.", QTYPE.SOA, ttl=TTL_S, rdata=authority))
        for extra in query.ar:
            if extra.rtype == QTYPE.OPT:
                limit = max(limit, min(int(extra.rclass), 4096)) if limit == UDP_LIMIT else limit
        data_ = reply.pack()
        return bytes(data_ if len(data_) <= limit else reply.truncate().pack())

    def _records(self, name: str) -> list[tuple[int, A | AAAA | PTR]] | None:
        """(type, data) of everything that a name has; None when there is no such name."""
        address = reversed_address(name)
        if address is not None:
            return [(QTYPE.PTR, PTR(known)) for known in self._names.names_of(address)] or None
        found = self._names.look_up(name)
        if isinstance(found, Unknown):
            return None
        return [(QTYPE.A, A(str(each))) if each.version == 4 else (QTYPE.AAAA, AAAA(str(each))) for each in found]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own datagram transport is no subclass of DatagramTransport.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._responder.answer(data, UDP_LIMIT)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


async def _converse(responder: Responder, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One TCP client: each message is preceded by its length (RFC 1035, section 4.2.2)."""
    try:
        while True:
            async with asyncio.timeout(TCP_IDLE_S):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                packet = await reader.readexactly(length)
            answer = responder.answer(packet, 65535)
            if answer is None:
                return
            writer.write(struct.pack("!H", len(answer)) + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        return
    finally:
        writer.close()


@asynccontextmanager
async def answering(names: Names, domain: str, address: IPv4Address, port: int = PORT) -> AsyncIterator[None]:
    """Answer while the context is open; raises `ClusterError` when the address cannot be had."""
    responder = Responder(names, domain)
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(responder), local_addr=(str(address), port)
        )
        server = await asyncio.start_server(
            lambda reader, writer: _converse(responder, reader, writer), str(address), port, reuse_address=True
        )
    except OSError as error:
        raise ClusterError(f"cannot answer DNS: {error.strerror}", object=f"{address} port {port}") from error
    try:
        yield
    finally:
        transport.close()
        server.close()
