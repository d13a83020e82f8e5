"""Cluster addresses of services: one free address of the service network for each, asked for or given.

What is in use is read from the services themselves, so nothing can leak or be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address

from egresslab.api.faults import invalid
from egresslab.api.resources import Object
from egresslab.cluster.apiserver import status
from egresslab.cluster.apiserver.store import Bucket

_RESERVED = 16
"""The first addresses are for those who ask for them by number (the API server, DNS)."""


def allocate(service: Object, services: Bucket, network: IPv4Network | IPv6Network) -> None:
    """Fill in clusterIP and its companions; raises 422 for an address that is taken or foreign."""
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        return
    asked = spec.get("clusterIP")
    if asked == "None":
        spec.setdefault("clusterIPs", ["None"])
        _families(spec, network)
        return
    name = service["metadata"]["name"]
    taken = {
        entry.fields["spec.clusterIP"]
        for entry in services.entries.values()
        if entry.key != (service["metadata"]["namespace"], name)
    }
    if asked:
        try:
            fits = ip_address(asked) in network
        except ValueError:
            fits = False
        if not fits or asked in taken:
            why = (
                "provided IP is already allocated" if fits else "the provided network does not match the current range"
            )
            detail = f"failed to allocate IP {asked}: {why}"
            raise status.invalid("", "Service", name, [invalid("spec.clusterIPs", [asked], detail)])
        chosen = asked
    else:
        chosen = next((address for address in _free(network) if address not in taken), None)
        if chosen is None:
            raise status.service_unavailable(f"the service network {network} has no free address")
    spec["clusterIP"] = chosen
    spec["clusterIPs"] = [chosen]
    _families(spec, network)


def _free(network: IPv4Network | IPv6Network) -> Iterator[str]:
    for index, address in enumerate(network.hosts(), 1):
        if index > _RESERVED:
            yield str(address)


def _families(spec: Object, network: IPv4Network | IPv6Network) -> None:
    spec.setdefault("ipFamilies", [f"IPv{network.version}"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
