"""Who answers for an address on a network: runs inside a pod, alone, on Python's standard library.

It keeps asking for the address from a hardware address that nobody has, so that nobody's cache learns anything from
the answers, and writes down every answer and every announcement with time and hardware address: ARP (RFC 826), or
neighbour discovery (RFC 4861) for an IPv6 address. Like `traffic`, the file itself is what a pod gets; it must never
import anything of this project.

    python witness.py INTERFACE ADDRESS INTERVAL-MS     until a line or the end of standard input; prints JSON
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import select
import socket
import struct
import sys
import time

NOBODY = bytes.fromhex("02ffd7111100")
ASKED, ANSWERED, ANNOUNCED = "asked", "answered", "announced"
ETHERNET = 14
LONGEST = 2048

ETH_P_ARP = 0x0806
ARP = struct.Struct("!HHBBH6s4s6s4s")
REQUEST, REPLY = 1, 2
BROADCAST = b"\xff" * 6

ETH_P_IPV6 = 0x86DD
IPV6 = struct.Struct("!IHBB16s16s")
NEIGHBOUR = struct.Struct("!BBHI16s")
OPTION = struct.Struct("!BB6s")
ICMPV6, SOLICITATION, ADVERTISEMENT = 58, 135, 136
SOLICITED = 0x4000_0000
SOURCE_OPTION, TARGET_OPTION = 1, 2
FURTHEST = 255
"""Hop limit of neighbour discovery: no router has seen the packet (RFC 4861, section 7.1)."""
NOBODY_V6 = b"\xfe\x80" + bytes(6) + bytes((NOBODY[0] ^ 2,)) + NOBODY[1:3] + b"\xff\xfe" + NOBODY[3:]
"""The link-local address that goes with the hardware address (RFC 4291, appendix A): nobody has it either."""

SO_ATTACH_FILTER = 26
LOAD_BYTE, UNLESS_EQUAL_SKIP, RETURN = 0x30, 0x15, 0x06
"""Operations of the kernel's socket filters (linux/filter.h)."""


def question(address: bytes) -> bytes:
    """Who has the address? For IPv4 an ARP probe, asked by somebody without an address (RFC 5227, section 2.1.1). For
    IPv6 a solicitation to the address' own group; asked from nowhere it would be duplicate address detection, whose
    answer goes to all nodes (RFC 4861, section 7.2.4) and would mend the very caches that are being measured."""
    if len(address) == 4:
        body = ARP.pack(1, 0x0800, 6, 4, REQUEST, NOBODY, bytes(4), bytes(6), address)
        return BROADCAST + NOBODY + struct.pack("!H", ETH_P_ARP) + body
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address[13:]
    option = OPTION.pack(SOURCE_OPTION, 1, NOBODY)
    size = NEIGHBOUR.size + OPTION.size
    header = IPV6.pack(6 << 28, size, ICMPV6, FURTHEST, NOBODY_V6, group)
    pseudo = NOBODY_V6 + group + struct.pack("!II", size, ICMPV6)
    checksum = internet_checksum(pseudo + NEIGHBOUR.pack(SOLICITATION, 0, 0, 0, address) + option)
    body = NEIGHBOUR.pack(SOLICITATION, 0, checksum, 0, address) + option
    return b"\x33\x33" + group[12:] + NOBODY + struct.pack("!H", ETH_P_IPV6) + header + body


def claim(frame: bytes, address: bytes) -> tuple[str, str] | None:
    """(answered or announced, hardware address) when the frame says who has the address."""
    found = arp_claim(frame, address) if len(address) == 4 else advertisement(frame, address)
    return found and (found[0], ":".join(f"{octet:02x}" for octet in found[1]))


def arp_claim(frame: bytes, address: bytes) -> tuple[str, bytes] | None:
    """The same of an ARP frame."""
    if len(frame) < ETHERNET + ARP.size:
        return None
    _, _, _, _, operation, hardware, sender, _, target = ARP.unpack_from(frame, ETHERNET)
    if sender != address or hardware == NOBODY:
        return None
    return ANSWERED if operation == REPLY and target != address else ANNOUNCED, hardware


def advertisement(frame: bytes, address: bytes) -> tuple[str, bytes] | None:
    """The same of a neighbour advertisement. A solicited one is an answer; one that is not announces, and so does the
    reply to duplicate address detection. Who solicits from nowhere only wishes for the address (RFC 4862, 5.4)."""
    start = ETHERNET + IPV6.size
    if len(frame) < start + NEIGHBOUR.size:
        return None
    _, size, following, hops, _, _ = IPV6.unpack_from(frame, ETHERNET)
    kind, code, _, flags, target = NEIGHBOUR.unpack_from(frame, start)
    if (following, hops, kind, code, target) != (ICMPV6, FURTHEST, ADVERTISEMENT, 0, address):
        return None
    # To one who asked, the option may be left out (RFC 4861, section 4.4).
    hardware, at, end = frame[6:12], start + NEIGHBOUR.size, min(len(frame), start + size)
    while at + OPTION.size <= end and frame[at + 1]:
        if frame[at] == TARGET_OPTION and frame[at + 1] == 1:
            hardware = frame[at + 2 : at + 8]
        at += 8 * frame[at + 1]
    return ANSWERED if flags & SOLICITED else ANNOUNCED, hardware


def internet_checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def listen(interface: str, protocol: int) -> socket.socket:
    """A socket for all frames there of the protocol; of IPv6 for advertisements alone, or all traffic would come."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    if protocol == ETH_P_IPV6:
        program = (
            (LOAD_BYTE, 0, 0, ETHERNET + 6),
            (UNLESS_EQUAL_SKIP, 0, 3, ICMPV6),
            (LOAD_BYTE, 0, 0, ETHERNET + IPV6.size),
            (UNLESS_EQUAL_SKIP, 0, 1, ADVERTISEMENT),
            (RETURN, 0, 0, LONGEST),
            (RETURN, 0, 0, 0),
        )
        packed = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", *step) for step in program))
        wire.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(packed)))
    wire.bind((interface, protocol))
    return wire


def watch(interface: str, address: str, interval_ms: float) -> list[tuple[int, str, str]]:
    """(ns since the epoch, kind, hardware address) of everything until standard input says something."""
    wanted = ipaddress.ip_address(address).packed
    wire = listen(interface, ETH_P_ARP if len(wanted) == 4 else ETH_P_IPV6)
    print("watching", file=sys.stderr, flush=True)
    records: list[tuple[int, str, str]] = []
    due = time.monotonic()
    while True:
        ready, _, _ = select.select([wire, sys.stdin], [], [], max(0.0, due - time.monotonic()))
        if sys.stdin in ready:
            return records
        if wire in ready and (found := claim(wire.recv(LONGEST), wanted)):
            records.append((time.time_ns(), *found))
        if time.monotonic() >= due:
            due = max(due + interval_ms / 1000, time.monotonic())
            records.append((time.time_ns(), ASKED, ""))
            wire.send(question(wanted))


if __name__ == "__main__":
    json.dump(watch(sys.argv[1], sys.argv[2], float(sys.argv[3])), sys.stdout)
    print(flush=True)
