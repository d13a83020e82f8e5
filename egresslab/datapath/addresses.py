"""Addresses as the kernel's maps hold them: IPv4 as ::ffff:a.b.c.d wherever one key serves both families."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from egresslab.datapath.values import IPAddress, IPNetwork

MAPPED = bytes(10) + b"\xff\xff"
NO_IPV4 = bytes(4)
NO_ADDRESS = bytes(16)


def wide(address: IPAddress | None) -> bytes:
    """Sixteen bytes for `struct address`; zeros for None."""
    if address is None:
        return NO_ADDRESS
    return address.packed if address.version == 6 else MAPPED + address.packed


def narrow(address: IPv4Address | None) -> bytes:
    """Four bytes for an IPv4-only field; zeros for None."""
    return NO_IPV4 if address is None else address.packed


def from_wide(raw: bytes) -> IPAddress | None:
    """None for zeros."""
    if raw == NO_ADDRESS:
        return None
    return IPv4Address(raw[12:]) if raw.startswith(MAPPED) else IPv6Address(raw)


def known(raw: bytes) -> IPAddress:
    """As `from_wide`, where a zero address is an address too."""
    return from_wide(raw) or IPv6Address(raw)


def from_narrow(raw: bytes) -> IPv4Address | None:
    """None for zeros."""
    return None if raw == NO_IPV4 else IPv4Address(raw)


def wide_prefix(network: IPNetwork) -> tuple[int, bytes]:
    """Prefix length and network of a CIDR in the 128-bit space that `cluster_cidrs` is keyed in."""
    return network.prefixlen + (0 if network.version == 6 else 96), wide(network.network_address)


def from_wide_prefix(length: int, raw: bytes) -> IPNetwork:
    if raw.startswith(MAPPED) and length >= 96:
        return IPv4Network((raw[12:], length - 96))
    return IPv6Network((raw, length))


def port_bytes(port: int) -> bytes:
    return port.to_bytes(2, "big")


def port_number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
