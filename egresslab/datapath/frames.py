"""Ethernet frames built from nothing, and what their headers say, for trials without a wire.

Just enough for what the programs translate: TCP, UDP and ICMP echo over IPv4 and IPv6, without options but a SYN's MSS.
Real traffic never comes through here.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from egresslab.datapath.values import IPAddress, Protocol

ETHERNET = 14
TYPES = {4: 0x0800, 6: 0x86DD}
HOP_LIMIT = 64
SYN, ACK = 0x02, 0x10
MSS = {4: 1_460, 6: 1_440}
"""What a host offers on a link of 1500 bytes."""
ECHO = {Protocol.ICMP: 8, Protocol.ICMPV6: 128}


def build(
    source: IPAddress,
    destination: IPAddress,
    protocol: Protocol,
    source_port: int,
    destination_port: int,
    *,
    data: bytes = b"",
    tcp_flags: int = SYN,
) -> bytes:
    """A frame with right checksums. For an echo request `source_port` is its identifier."""
    match protocol:
        case Protocol.TCP:
            options = struct.pack("!BBH", 2, 4, MSS[source.version]) if tcp_flags == SYN else b""
            size = (20 + len(options)) // 4 << 4
            start = struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 0, size, tcp_flags, 65_535, 0, 0)
            segment, at = start + options + data, 16
        case Protocol.UDP:
            segment = struct.pack("!HHHH", source_port, destination_port, 8 + len(data), 0) + data
            at = 6
        case _:
            segment = struct.pack("!BBHHH", ECHO[protocol], 0, 0, source_port, 1) + data
            at = 2
    pseudo = b"" if protocol is Protocol.ICMP else pseudo_header(source, destination, protocol, len(segment))
    sum_ = checksum(pseudo + segment)
    if not sum_ and protocol is Protocol.UDP:
        sum_ = 0xFFFF
    segment = segment[:at] + sum_.to_bytes(2, "big") + segment[at + 2 :]
    return bytes(12) + struct.pack("!H", TYPES[source.version]) + _network(source, destination, protocol, segment)


def _network(source: IPAddress, destination: IPAddress, protocol: Protocol, payload: bytes) -> bytes:
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, HOP_LIMIT)
        return head + source.packed + destination.packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, HOP_LIMIT, protocol, 0)
    head += source.packed + destination.packed
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def pseudo_header(source: IPAddress, destination: IPAddress, protocol: Protocol, length: int) -> bytes:
    """What a transport checksum covers besides its segment (RFC 9293 section 3.1, RFC 8200 section 8.1)."""
    return source.packed + destination.packed + struct.pack("!II", length, protocol)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def describe(frame: bytes) -> dict[str, str]:
    """What the headers of a frame say, by field; empty for what is neither IPv4 nor IPv6 of a known protocol."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    fields: dict[str, str] = {}
    if kind == TYPES[4]:
        hops, protocol = frame[ETHERNET + 8], frame[ETHERNET + 9]
        fields["source"] = str(IPv4Address(frame[ETHERNET + 12 : ETHERNET + 16]))
        fields["destination"] = str(IPv4Address(frame[ETHERNET + 16 : ETHERNET + 20]))
        at = ETHERNET + (frame[ETHERNET] & 0xF) * 4
    elif kind == TYPES[6]:
        protocol, hops = frame[ETHERNET + 6], frame[ETHERNET + 7]
        fields["source"] = str(IPv6Address(frame[ETHERNET + 8 : ETHERNET + 24]))
        fields["destination"] = str(IPv6Address(frame[ETHERNET + 24 : ETHERNET + 40]))
        at = ETHERNET + 40
    else:
        return fields
    fields["hop limit"] = str(hops)
    first, second = struct.unpack_from("!HH", frame, at)
    if protocol in (Protocol.TCP, Protocol.UDP):
        fields["source port"], fields["destination port"] = str(first), str(second)
        if protocol == Protocol.TCP:
            fields |= _tcp(frame, at)
    elif protocol in ECHO:
        fields["ICMP type"], fields["ICMP code"] = str(frame[at]), str(frame[at + 1])
        if frame[at] == ECHO[Protocol(protocol)]:
            fields["identifier"] = str(struct.unpack_from("!H", frame, at + 4)[0])
    return fields


def _tcp(frame: bytes, at: int) -> dict[str, str]:
    names = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
    flags = frame[at + 13]
    fields = {"TCP flags": " ".join(name for bit, name in enumerate(names) if flags >> bit & 1)}
    if frame[at + 12] >> 4 > 5 and frame[at + 20] == 2:
        fields["MSS"] = str(struct.unpack_from("!H", frame, at + 22)[0])
    return fields
