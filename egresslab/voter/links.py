"""Whether interfaces have a link, told by the kernel the moment that it changes.

Written without the netlink library, whose import would double a voter's memory: the message is only a wake-up, and the
state is then asked for with two ioctls (netdevice(7)).
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Collection

RTMGRP_LINK = 1
SIOCGIFFLAGS, SIOCGIFHWADDR = 0x8913, 0x8927
IFF_UP, IFF_RUNNING = 0x1, 0x40
ARPHRD_ETHER = 1


class Links:
    """A netlink socket that becomes readable when a link changes (rtnetlink(7))."""

    def __init__(self) -> None:
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._events.bind((0, RTMGRP_LINK))
        self._events.setblocking(False)

    def fileno(self) -> int:
        return self._events.fileno()

    def drain(self) -> bool:
        """Whether anything changed since the last call. Lost messages (ENOBUFS) are changes too."""
        changed = False
        while True:
            try:
                self._events.recv(65_536)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            changed = True

    def close(self) -> None:
        self._events.close()


def down(names: Collection[str]) -> tuple[str, ...]:
    """Those that are missing, shut, or without carrier."""
    return tuple(sorted(name for name in names if not _running(name)))


def hardware_address(name: str) -> bytes | None:
    """The MAC of an Ethernet interface; None for another kind, or none."""
    raw = _ask(name, SIOCGIFHWADDR)
    if raw is None or struct.unpack_from("=H", raw, 16)[0] != ARPHRD_ETHER:
        return None
    return raw[18:24]


def _running(name: str) -> bool:
    raw = _ask(name, SIOCGIFFLAGS)
    if raw is None:
        return False
    flags = struct.unpack_from("=H", raw, 16)[0]
    return bool(flags & IFF_UP and flags & IFF_RUNNING)


def _ask(name: str, request: int) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            return fcntl.ioctl(control, request, struct.pack("=16s24x", name.encode()[:15]))
        except OSError:
            return None
