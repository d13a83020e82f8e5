"""String formats that schemas may ask for (apiextensions.k8s.io/v1, "supported formats"), and Kubernetes' strict
reading of addresses: no leading zeros, no zone, and CIDRs as Go's net.ParseCIDR takes them (host bits allowed).
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime
from ipaddress import ip_address, ip_interface
from typing import Any
from urllib.parse import urlsplit

_MAC = re.compile(r"([0-9A-Fa-f]{2}([:-]))([0-9A-Fa-f]{2}\2){4}[0-9A-Fa-f]{2}")
_HOST = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*\.?")
_DURATION = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*|0")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def is_ip(text: str) -> bool:
    """One IPv4 or IPv6 address."""
    return ip_version(text) is not None


def ip_version(text: str) -> int | None:
    """4 or 6, or None for what is not an address."""
    try:
        return None if "%" in text else ip_address(text).version
    except ValueError:
        return None


def is_cidr(text: str) -> bool:
    """An address and a prefix length."""
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdigit() or (len(length) > 1 and length[0] == "0"):
        return False
    version = ip_version(address)
    return version is not None and int(length) <= (32 if version == 4 else 128)


def cidr_version(text: str) -> int | None:
    """4 or 6, or None for what is not a CIDR."""
    return ip_interface(text).version if is_cidr(text) else None


def _date_time(text: str) -> bool:
    return bool(_DATE_TIME.fullmatch(text)) and _parses(datetime.fromisoformat, re.sub(r"(\.\d{6})\d+", r"\1", text))


def _parses(parse: Callable[[str], Any], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        return False
    return True


FORMATS: dict[str, Callable[[str], bool]] = {
    "ipv4": lambda text: ip_version(text) == 4,
    "ipv6": lambda text: ip_version(text) == 6,
    "cidr": is_cidr,
    "mac": lambda text: bool(_MAC.fullmatch(text)),
    "hostname": lambda text: bool(_HOST.fullmatch(text)),
    "uri": lambda text: bool(urlsplit(text).scheme or text.startswith("/")),
    "uuid": lambda text: len(text) in (32, 36) and _parses(uuid.UUID, text),
    "byte": _base64,
    "date": lambda text: _parses(date.fromisoformat, text),
    "date-time": _date_time,
    "datetime": _date_time,
    "duration": lambda text: bool(_DURATION.fullmatch(text)),
}
"""A format that is not listed is not checked, as in Kubernetes ("ip" is no such format there)."""
