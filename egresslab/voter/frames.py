"""Frames about addresses: announcing one, asking for one, and reading who else claims one. Bytes in, bytes out.

ARP for IPv4 (RFC 826, RFC 5227), neighbour discovery for IPv6 (RFC 4861). All go out by packet sockets, because no
kernel owns a virtual address and none would send them for us.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from egresslab.voter.files import IPAddress

BROADCAST = b"\xff" * 6
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
REQUEST, REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136
OVERRIDE = 0x2000_0000
SOURCE_OPTION, TARGET_OPTION = 1, 2
ICMPV6 = 58
ALL_NODES = IPv6Address("ff02::1")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_NEIGHBOUR = struct.Struct("!BBHI16s")
_OPTION = struct.Struct("!BB6s")
_IPV6 = struct.Struct("!IHBB16s16s")


class Claim(NamedTuple):
    """Somebody says that an address is his. `mac` as text."""

    address: IPAddress
    mac: str


def mac_text(raw: bytes) -> str:
    return raw.hex(":")


def announcements(address: IPAddress, mac: bytes) -> list[bytes]:
    """What makes every neighbour send to `mac` from now on. ARP as a request and as a reply, for hosts differ in which
    of the two they heed (RFC 5227, section 3); or an unsolicited advertisement that overrides (RFC 4861, 7.2.6)."""
    if isinstance(address, IPv4Address):
        return [
            _arp(REQUEST, mac, address, bytes(6), address),
            _arp(REPLY, mac, address, BROADCAST, address),
        ]
    option = _OPTION.pack(TARGET_OPTION, 1, mac)
    return [_icmpv6(mac, address, ALL_NODES, ADVERTISEMENT, OVERRIDE, address, option)]


def question(address: IPAddress, mac: bytes) -> bytes:
    """Who has it? Asked from nowhere, so that nobody learns an address from the question (RFC 5227, section 2.1.1;
    RFC 4862, section 5.4.2)."""
    if isinstance(address, IPv4Address):
        return _arp(REQUEST, mac, IPv4Address(0), bytes(6), address)
    return _icmpv6(mac, IPv6Address(0), solicited_group(address), SOLICITATION, 0, address, b"")


def solicited_group(address: IPv6Address) -> IPv6Address:
    """The multicast group that is asked for the address (RFC 4291, section 2.7.1)."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


def arp_claim(frame: bytes) -> Claim | None:
    """Who says in this ARP frame that an address is his; None for a question from nowhere and for what is no ARP."""
    if len(frame) < 14 + _ARP.size or frame[12:14] != ETH_P_ARP.to_bytes(2, "big"):
        return None
    hardware, protocol, hardware_size, size, _, mac, sender, _, _ = _ARP.unpack_from(frame, 14)
    if (hardware, protocol, hardware_size, size) != (1, 0x0800, 6, 4) or sender == bytes(4):
        return None
    return Claim(IPv4Address(sender), mac_text(mac))


def advertisement_claim(message: bytes) -> Claim | None:
    """The same of an ICMPv6 message; one without the claimant's link-layer address tells nothing."""
    if len(message) < _NEIGHBOUR.size or message[0] != ADVERTISEMENT:
        return None
    target = IPv6Address(message[8:24])
    at = _NEIGHBOUR.size
    while at + _OPTION.size <= len(message):
        kind, size = message[at], message[at + 1]
        if not size:
            return None
        if kind == TARGET_OPTION and size == 1:
            return Claim(target, mac_text(message[at + 2 : at + 8]))
        at += 8 * size
    return None


def _arp(operation: int, mac: bytes, sender: IPv4Address, target_mac: bytes, target: IPv4Address) -> bytes:
    header = BROADCAST + mac + ETH_P_ARP.to_bytes(2, "big")
    return header + _ARP.pack(1, 0x0800, 6, 4, operation, mac, sender.packed, target_mac, target.packed)


def _icmpv6(
    mac: bytes, source: IPv6Address, group: IPv6Address, kind: int, flags: int, target: IPv6Address, option: bytes
) -> bytes:
    size = _NEIGHBOUR.size + len(option)
    pseudo = source.packed + group.packed + struct.pack("!IHBB", size, 0, 0, ICMPV6)
    message = _NEIGHBOUR.pack(kind, 0, 0, flags, target.packed) + option
    checksum = _checksum(pseudo + message)
    message = _NEIGHBOUR.pack(kind, 0, checksum, flags, target.packed) + option
    ip = _IPV6.pack(6 << 28, size, ICMPV6, 255, source.packed, group.packed)
    return b"\x33\x33" + group.packed[12:] + mac + ETH_P_IPV6.to_bytes(2, "big") + ip + message


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
