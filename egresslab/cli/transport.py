"""The transports that a command may be asked about, by the names that people give them."""

from __future__ import annotations

from enum import StrEnum


class Transport(StrEnum):
    """What can be translated."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
