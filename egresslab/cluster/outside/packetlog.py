"""The kernel's packet log (nfnetlink_log), read over netlink: who was let in and who was refused.

pyroute2 has no messages for it, and the format is four attributes long: linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
ULOG_PACKET, ULOG_CONFIG = 0x400, 0x401
CFG_CMD, CFG_MODE, CFG_QUEUE_THRESHOLD = 1, 2, 5
COMMAND_BIND, COPY_PACKET = 1, 2
ATTRIBUTE_PAYLOAD, ATTRIBUTE_PREFIX = 9, 10
HEADER_BYTES = 128
"""How much of a packet is copied to us: network and transport headers."""
RECEIVE_BUFFER_BYTES = 1 << 20
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


@dataclass(frozen=True, slots=True)
class LoggedPacket:
    """One packet and what became of it; ports are None for protocols that have none."""

    verdict: str
    protocol: str
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_port: int | None
    destination_port: int | None

    def __str__(self) -> str:
        return (
            f"{self.verdict} {self.protocol} {_endpoint(self.source, self.source_port)}"
            f" -> {_endpoint(self.destination, self.destination_port)}"
        )


def _endpoint(address: IPv4Address | IPv6Address, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def parse_packet(verdict: str, data: bytes) -> LoggedPacket | None:
    """A packet from its IP header on, or None when it is too short to tell; IPv6 extension headers are not followed."""
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    if len(data) >= 20 and data[0] >> 4 == 4:
        source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
        number, rest = data[9], data[(data[0] & 15) * 4 :]
    elif len(data) >= 40 and data[0] >> 4 == 6:
        source, destination = IPv6Address(data[8:24]), IPv6Address(data[24:40])
        number, rest = data[6], data[40:]
    else:
        return None
    ports: tuple[int | None, int | None] = (None, None)
    if number in (6, 17) and len(rest) >= 4:
        ports = struct.unpack_from("!HH", rest)
    return LoggedPacket(verdict, PROTOCOLS.get(number, str(number)), source, destination, *ports)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def _configure(group: int, *attributes: bytes) -> bytes:
    body = struct.pack("!BBH", socket.AF_UNSPEC, 0, group) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), ULOG_CONFIG, NLM_F_REQUEST | NLM_F_ACK, 0, 0) + body


def parse_messages(data: bytes) -> Iterator[LoggedPacket]:
    """The packets in what one read of the socket gave."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if length < 16:
            return
        message, data = data[16:length], data[(length + 3) & ~3 :]
        if kind != ULOG_PACKET:
            continue
        attributes, rest = {}, message[4:]
        while len(rest) >= 4:
            size, name = struct.unpack_from("=HH", rest)
            if size < 4:
                break
            attributes[name & 0x3FFF] = rest[4:size]
            rest = rest[(size + 3) & ~3 :]
        verdict = attributes.get(ATTRIBUTE_PREFIX, b"").rstrip(b"\0").decode(errors="replace")
        packet = parse_packet(verdict, attributes.get(ATTRIBUTE_PAYLOAD, b""))
        if packet is not None:
            yield packet


@contextmanager
def reading(group: int, on_packet: Callable[[LoggedPacket], None]) -> Iterator[None]:
    """Call `on_packet` in the running loop for every packet logged to `group` in this network namespace.

    Raises OSError when the kernel has no packet log or another process reads this group already.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as log:
        log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        log.bind((0, 0))
        log.settimeout(1.0)
        for request in (
            _configure(group, _attribute(CFG_CMD, struct.pack("=B", COMMAND_BIND))),
            _configure(group, _attribute(CFG_MODE, struct.pack("!IBB", HEADER_BYTES, COPY_PACKET, 0))),
            _configure(group, _attribute(CFG_QUEUE_THRESHOLD, struct.pack("!I", 1))),
        ):
            log.send(request)
            (code,) = struct.unpack_from("=i", log.recv(4096), 16)
            if code:
                raise OSError(-code, "the kernel's packet log refused us")
        log.setblocking(False)

        def read() -> None:
            try:
                data = log.recv(1 << 16)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # ENOBUFS: packets came faster than we read; the next read goes on after the gap.
                return
            for packet in parse_messages(data):
                on_packet(packet)

        loop.add_reader(log, read)
        try:
            yield
        finally:
            loop.remove_reader(log)
