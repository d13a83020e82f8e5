"""Servers, clients and a capture that live in namespaces of a rig, all on one event loop."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address

from egresslab.datapath.testing import Rig
from egresslab.datapath.values import IPAddress

TIMEOUT_S = 10.0
ETH_P_ALL = 3
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17


def family_of(address: IPAddress) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def any_address(address: IPAddress) -> str:
    return "0.0.0.0" if address.version == 4 else "::"


@asynccontextmanager
async def tcp_server(rig: Rig, namespace: str, address: IPAddress, port: int) -> AsyncIterator[list[IPAddress]]:
    """Answers a line `send N` with N bytes, anything else with what came; yields the peers as they connect."""
    peers: list[IPAddress] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("peername")[0]
        peers.append(IPv4Address(host) if "." in host else IPv6Address(host))
        with suppress(ConnectionError):
            while line := await reader.readline():
                verb, _, size = line.decode().partition(" ")
                if verb == "send":
                    writer.write(pattern(int(size)))
                elif verb == "take":
                    taken = await reader.readexactly(int(size))
                    writer.write(hashlib.sha256(taken).hexdigest().encode() + b"\n")
                else:
                    writer.write(line)
                await writer.drain()
        writer.close()

    made = rig.socket(namespace, family_of(address))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((str(address), port))
    server = await asyncio.start_server(serve, sock=made, limit=1 << 20)
    try:
        yield peers
    finally:
        server.close()


@asynccontextmanager
async def udp_server(
    rig: Rig, namespace: str, address: IPAddress, port: int
) -> AsyncIterator[list[tuple[IPAddress, int]]]:
    """Echoes datagrams; yields the peers."""
    peers: list[tuple[IPAddress, int]] = []
    made = rig.socket(namespace, family_of(address), socket.SOCK_DGRAM)
    made.bind((str(address), port))

    def readable() -> None:
        with suppress(OSError):  # an ICMP error about an earlier answer surfaces here
            data, peer = made.recvfrom(65_535)
            peers.append((IPv4Address(peer[0]) if "." in peer[0] else IPv6Address(peer[0]), peer[1]))
            made.sendto(data, peer)

    asyncio.get_running_loop().add_reader(made, readable)
    try:
        yield peers
    finally:
        asyncio.get_running_loop().remove_reader(made)
        made.close()


class Client:
    """One TCP connection from a namespace."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, rig: Rig, namespace: str, address: IPAddress, port: int, source_port: int = 0) -> Client:
        made = rig.socket(namespace, family_of(address))
        if source_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((any_address(address), source_port))
        try:
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_connect(made, (str(address), port)), TIMEOUT_S)
            return cls(*await asyncio.open_connection(sock=made, limit=1 << 20))
        except BaseException:
            made.close()
            raise

    async def echo(self, text: str = "hello", timeout: float = TIMEOUT_S) -> str:
        self.writer.write(text.encode() + b"\n")
        return (await asyncio.wait_for(self.reader.readline(), timeout)).decode().strip()

    async def download(self, size: int) -> bool:
        """Whether exactly what the server sent arrived."""
        self.writer.write(f"send {size}\n".encode())
        return await asyncio.wait_for(self.reader.readexactly(size), 3 * TIMEOUT_S) == pattern(size)

    async def upload(self, size: int) -> bool:
        data = pattern(size)
        self.writer.write(f"take {size}\n".encode() + data)
        await asyncio.wait_for(self.writer.drain(), 3 * TIMEOUT_S)
        answer = await asyncio.wait_for(self.reader.readline(), 3 * TIMEOUT_S)
        return answer.decode().strip() == hashlib.sha256(data).hexdigest()

    async def reset(self) -> None:
        """End it at once, leaving nothing behind that would keep its ports."""
        made = self.writer.get_extra_info("socket")
        with suppress(OSError):  # the other side may have reset it already
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await asyncio.wait_for(self.writer.wait_closed(), TIMEOUT_S)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await asyncio.wait_for(self.writer.wait_closed(), TIMEOUT_S)


def pattern(size: int) -> bytes:
    block = bytes(range(251))
    return (block * (size // len(block) + 1))[:size]


async def receive(made: socket.socket, timeout: float = TIMEOUT_S) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(made, 65_535), timeout)


def checksum_offload(rig: Rig, namespace: str, interface: str, *, enabled: bool) -> None:
    """Whether the kernel leaves checksums to the interface (SIOCETHTOOL with ETHTOOL_STXCSUM, linux/ethtool.h). Virtual
    links never compute them; without this, a wrong one would go unnoticed."""
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, enabled), 8)
    request = struct.pack("=16sQ16x", interface.encode(), ctypes.addressof(value))
    with rig.socket(namespace, socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, request)


async def eventually(condition: Callable[[], bool], what: str, timeout: float = TIMEOUT_S) -> None:
    """Poll a condition that nothing announces."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.01)


class Capture:
    """What a namespace receives on an interface: source and destination addresses of every IP packet."""

    def __init__(self, rig: Rig, namespace: str, *interfaces: str) -> None:
        self.seen: list[tuple[IPAddress, IPAddress, int]] = []
        self._sockets = []
        for interface in interfaces:
            made = rig.socket(namespace, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            made.bind((interface, ETH_P_ALL))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
            self._sockets.append(made)

    def __enter__(self) -> Capture:
        for made in self._sockets:
            asyncio.get_running_loop().add_reader(made, self._read, made)
        return self

    def __exit__(self, *_: object) -> None:
        for made in self._sockets:
            asyncio.get_running_loop().remove_reader(made)
            made.close()

    def sources(self) -> set[IPAddress]:
        """Sources of packets that came in."""
        for made in self._sockets:
            self._read(made)
        return {source for source, _, _ in self.seen}

    def _read(self, made: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                frame, address = made.recvfrom(128)
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                if frame[12:14] == b"\x08\x00":
                    self.seen.append((IPv4Address(frame[26:30]), IPv4Address(frame[30:34]), frame[23]))
                elif frame[12:14] == b"\x86\xdd":
                    self.seen.append((IPv6Address(frame[22:38]), IPv6Address(frame[38:54]), frame[20]))
