"""Which pod has which addresses: handed out round robin, so that an address is not soon another pod's.

A pod's IPv4 and IPv6 addresses have the same number within their subnets. What is in use is written in the pods' own
records; this remembers only where the round goes on, in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from egresslab.cluster.node.config import Address, Network
from egresslab.errors import ClusterError

FIRST = 2
"""Number 0 is the subnet itself, 1 the node in it."""


def gateway(network: Network) -> Address:
    """The node's own address in a pod CIDR."""
    return network[1]


class AddressPool:
    """Hands out one address of every pod CIDR for each pod."""

    def __init__(self, networks: Sequence[Network], cursor: Path) -> None:
        self._networks = tuple(networks)
        self._cursor = cursor
        # The last number is left out: in IPv4 it is the broadcast address.
        self._end = min((network.num_addresses for network in networks), default=FIRST) - 1
        self._end = min(self._end, FIRST + 65_000)

    def take(self, used: Iterable[Address]) -> tuple[Address, ...]:
        """Addresses that nobody in `used` has; raises `ClusterError` when there are none, or none left."""
        if not self._networks:
            raise ClusterError("the node is not on the pods' network", fix="hostNetwork: true, or another node")
        taken = set(used)
        start = self._read()
        for number in chain(range(start, self._end), range(FIRST, start)):
            addresses = tuple(network[number] for network in self._networks)
            if not taken.intersection(addresses):
                self._cursor.write_text(str(number + 1))
                return addresses
        raise ClusterError(
            "no pod address is free",
            object=str(self._networks[0]),
            fix="delete pods of this node, or give it a larger pod CIDR",
        )

    def _read(self) -> int:
        with suppress(FileNotFoundError, ValueError):
            number = int(self._cursor.read_text())
            if FIRST <= number < self._end:
                return number
        return FIRST


def of_version(addresses: Iterable[Address], version: int) -> Address | None:
    """The first address of an IP version."""
    return next((address for address in addresses if address.version == version), None)
