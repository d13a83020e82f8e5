"""Domain names as destinations: which patterns cover which names."""

from __future__ import annotations

from ipaddress import ip_network

from egresslab.policy.model import Address, Cidr


def covers(pattern: str, name: str) -> bool:
    """Whether `pattern` (a name, or `*.` and a name) covers `name`; a wildcard covers the names below it only."""
    lowered = name.lower().rstrip(".")
    return lowered.endswith(pattern[1:]) if pattern.startswith("*.") else lowered == pattern


def host_cidr(address: Address) -> Cidr:
    """The network that holds just this address."""
    network = ip_network((address, address.max_prefixlen))
    return Cidr(network, str(network))
