"""The links on which addresses are announced: sending frames there, and hearing who else claims an address.

Sockets only. Nothing here decides anything, and a link that is gone is no error: it is down, and others will act on it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address

from egresslab.voter.files import IPAddress
from egresslab.voter.frames import (
    ADVERTISEMENT,
    ETH_P_ARP,
    Claim,
    advertisement_claim,
    announcements,
    arp_claim,
    mac_text,
    question,
    solicited_group,
)
from egresslab.voter.links import hardware_address

logger = logging.getLogger(__name__)

ICMP6_FILTER = 1
"""linux/icmpv6.h; a bit that is set blocks the type."""
FRAME = 2_048


@dataclass(slots=True)
class Link:
    """One announcing interface. `mac`: its own; `arp`: bound there for ARP alone, and used to send any frame."""

    name: str
    index: int
    mac: bytes
    arp: socket.socket
    joined: dict[IPv6Address, socket.socket]

    @property
    def mac_text(self) -> str:
        return mac_text(self.mac)

    def close(self) -> None:
        self.arp.close()
        for made in self.joined.values():
            made.close()


class Neighbours:
    """A context manager. `links` by name: what is there and Ethernet."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._advertisements = self._listen_ipv6()

    def close(self) -> None:
        for link in self.links.values():
            link.close()
        self.links = {}
        if self._advertisements is not None:
            self._advertisements.close()

    def follow(self, wanted: Collection[str], addresses: Collection[IPAddress]) -> bool:
        """Have the interfaces that are there open, and the groups of IPv6 addresses joined on them; whether any
        interface came, went or changed its index or address."""
        changed = False
        for name in self.links.keys() - set(wanted):
            self.links.pop(name).close()
            changed = True
        for name in wanted:
            index, mac = _index(name), hardware_address(name)
            held = self.links.get(name)
            if held is not None and (held.index, held.mac) != (index, mac):
                self.links.pop(name).close()
                held, changed = None, True
            if held is None and index and mac:
                opened = _open(name, index, mac)
                if opened is not None:
                    self.links[name] = held = opened
                    changed = True
            if held is not None:
                _join(held, {address for address in addresses if isinstance(address, IPv6Address)})
        return changed

    def filenos(self) -> list[int]:
        """Descriptors to wait for."""
        found = [link.arp.fileno() for link in self.links.values()]
        return [*found, self._advertisements.fileno()] if self._advertisements is not None else found

    def announce(self, address: IPAddress, names: Collection[str]) -> None:
        """Tell everybody on these links that the address is here."""
        for link in self._those(names):
            for frame in announcements(address, link.mac):
                _send(link, frame)

    def ask(self, address: IPAddress, names: Collection[str]) -> None:
        """Ask who has the address."""
        for link in self._those(names):
            _send(link, question(address, link.mac))

    def claims(self) -> Iterator[tuple[Claim, str]]:
        """What was claimed since the last call, and on which interface."""
        for link in self.links.values():
            for frame, _ in _drain(link.arp):
                claim = arp_claim(frame)
                if claim is not None:
                    yield claim, link.name
        if self._advertisements is None:
            return
        names = {link.index: link.name for link in self.links.values()}
        for message, index in _drain(self._advertisements):
            claim = advertisement_claim(message)
            if claim is not None and index in names:
                yield claim, names[index]

    def _those(self, names: Collection[str]) -> Iterator[Link]:
        return (self.links[name] for name in names if name in self.links)

    @staticmethod
    def _listen_ipv6() -> socket.socket | None:
        """Advertisements alone, on all interfaces; None where there is no IPv6."""
        try:
            made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
                return None
            raise
        words = [0xFFFF_FFFF] * 8
        words[ADVERTISEMENT >> 5] &= ~(1 << (ADVERTISEMENT & 31))
        made.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *words))
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        made.setblocking(False)
        return made


def _open(name: str, index: int, mac: bytes) -> Link | None:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        made.setblocking(False)
        made.bind((name, ETH_P_ARP))
    except OSError as error:
        made.close()
        logger.warning("cannot announce on %s: %s", name, os.strerror(error.errno or 0))
        return None
    return Link(name, index, mac, made, {})


def _join(link: Link, addresses: set[IPv6Address]) -> None:
    """A switch that watches multicast delivers solicitations only where somebody joined the group."""
    for address in link.joined.keys() - addresses:
        link.joined.pop(address).close()
    for address in addresses - link.joined.keys():
        with suppress(OSError):
            made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            link.joined[address] = made
            group = solicited_group(address).packed + struct.pack("@I", link.index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)


def _send(link: Link, frame: bytes) -> None:
    """A frame that cannot leave is lost, like one that leaves a moment before the cable is pulled."""
    with suppress(OSError):
        link.arp.send(frame)


def _drain(made: socket.socket) -> Iterator[tuple[bytes, int]]:
    """Everything that waits, with the index of the interface where the kernel tells it; what we sent is left out."""
    while True:
        try:
            data, ancillary, _, address = made.recvmsg(FRAME, 64)
        except BlockingIOError:
            return
        except OSError:
            return  # the link is gone or down; `follow` will notice
        if made.family == socket.AF_PACKET and address[2] == socket.PACKET_OUTGOING:
            continue
        index = 0
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                index = struct.unpack_from("@I", value, 16)[0]
        yield data, index


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
