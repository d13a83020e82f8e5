"""One ICMP echo over a raw socket (RFC 792, RFC 4443), bound to an interface when one is named.

Never more than asked for: no retries, no state between calls.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

ECHO = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""
REQUEST, REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_sequence = itertools.count()


async def ping(address: IPv4Address | IPv6Address, timeout_s: float, interface: str | None = None) -> str | None:
    """None when an answer came, else why not, in words. Needs CAP_NET_RAW."""
    version, mark = address.version, secrets.token_bytes(8)
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    loop = asyncio.get_running_loop()
    # The mark in the payload tells our answers from others': every raw socket sees every reply.
    header = ECHO.pack(REQUEST[version], 0, 0, os.getpid() & 0xFFFF, next(_sequence) & 0xFFFF)
    packet = header + mark
    if version == 4:
        packet = packet[:2] + _checksum(packet).to_bytes(2) + packet[4:]
    try:
        async with asyncio.timeout(timeout_s):
            with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
                raw.setblocking(False)
                if interface is not None:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                raw.connect((str(address), 0))  # sends nothing and so never waits
                await loop.sock_sendall(raw, packet)
                while True:
                    answer = await loop.sock_recv(raw, 2048)
                    start = (answer[0] & 0xF) * 4 if version == 4 else 0
                    if answer[start : start + 1] == bytes([REPLY[version]]) and answer[start + ECHO.size :] == mark:
                        return None
    except TimeoutError:
        return f"no answer within {timeout_s * 1000:.0f} ms"
    except OSError as error:
        return error.strerror or repr(error)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    folded: int = total + (total >> 16)
    return ~folded & 0xFFFF
