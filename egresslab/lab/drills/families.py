"""The address family of a drill, and the servers outside that its traffic goes to by default.

Target, control, policy and virtual address are all of one family; a drill never mixes two.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import StrEnum

from egresslab.errors import LabError
from egresslab.lab.entries import IPAddress


class Family(StrEnum):
    """What traffic is made of."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @classmethod
    def of(cls, address: IPAddress) -> Family:
        """The family of an address."""
        return cls.IPV4 if address.version == 4 else cls.IPV6

    @property
    def label(self) -> str:
        """As people write it."""
        return "IPv4" if self is Family.IPV4 else "IPv6"


TARGETS = {Family.IPV4: "203.0.113.10", Family.IPV6: "2001:db8:113::10"}
"""Servers of the embedded lab that are far away: the default target of drills."""
CONTROLS = {Family.IPV4: "192.168.60.13", Family.IPV6: "fd00:60::13"}
"""A server next to the nodes, which no policy of a drill selects."""


def agreed(wanted: Family | None, given: Mapping[str, str | None]) -> tuple[Family, dict[str, IPAddress]]:
    """The family that is wanted, else that of the first address given, else IPv4; and the addresses, by the names of
    the options that gave them. `LabError` for one that is of another family, or no address."""
    addresses: dict[str, IPAddress] = {}
    for name, text in given.items():
        if text:
            try:
                addresses[name] = ipaddress.ip_address(text)
            except ValueError as error:
                raise LabError("is no address", object="drill", field=name, value=text) from error
    family = wanted or next(map(Family.of, addresses.values()), Family.IPV4)
    for name, address in addresses.items():
        if Family.of(address) is not family:
            raise LabError(
                f"is no {family.label} address, and a drill is of one family",
                object="drill",
                field=name,
                value=str(address),
                fix=f"give addresses of one family, or ask for the family {Family.of(address).value}",
            )
    return family, addresses
