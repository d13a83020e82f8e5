"""The two UDP sockets: probes on 9878, messages on 9877, both on the node's own address and never waiting.

A datagram that cannot be sent is lost like any other; whoever misses it will say so.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address

from egresslab.datapath.probe import PORT as PROBE_PORT
from egresslab.voter.messages import PORT as MESSAGE_PORT

NETWORK_CONTROL = 0xC0
"""DSCP CS6 (RFC 4594, section 3.2): where a network has queues, a probe should not stand behind what it measures."""
PRIORITY = 7
"""SO_PRIORITY: the first band of the usual queueing disciplines."""
LONGEST = 65_535
AT_ONCE = 256
"""How many datagrams are taken in a row before time is looked at again."""


class Datagrams:
    """A bound socket; both ends use the same port."""

    def __init__(self, address: IPv4Address, port: int) -> None:
        """Raises OSError, of which EADDRINUSE means that another voter runs on this node."""
        self._port = port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, NETWORK_CONTROL)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
            self._socket.bind((str(address), port))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, raw: bytes, address: IPv4Address) -> None:
        with suppress(OSError):
            self._socket.sendto(raw, (str(address), self._port))

    def drain(self) -> Iterator[tuple[bytes, str]]:
        """What waits, from the right port, oldest first, with its sender's address as text: there are many of them."""
        for _ in range(AT_ONCE):
            try:
                raw, (host, port) = self._socket.recvfrom(LONGEST)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about something we sent
            if port == self._port:
                yield raw, host

    def close(self) -> None:
        self._socket.close()


def probe_socket(address: IPv4Address, port: int = PROBE_PORT) -> Datagrams:
    """Requests go out here, and answers come in. Requests to this node never arrive where its program answers them."""
    return Datagrams(address, port)


def nudge(address: IPv4Address, port: int = MESSAGE_PORT) -> None:
    """Wake the voter there, which looks at its file then: a datagram that is no message, by the port it comes from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened, suppress(OSError):
        opened.setblocking(False)
        opened.sendto(b"", (str(address), port))


def message_socket(address: IPv4Address, port: int = MESSAGE_PORT) -> Datagrams:
    return Datagrams(address, port)
