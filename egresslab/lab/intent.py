"""What a CiliumEgressGatewayPolicy says the world should see, worked out for checks from the objects alone.

Deliberately short and apart from the engine that decides for the datapath: a check that asked the engine would repeat
its mistakes. Only what the chapters use: one gateway, labels to match, an address or an interface.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from egresslab.api.resources import Object
from egresslab.errors import LabError
from egresslab.lab.entries import IPAddress, IPNetwork
from egresslab.lab.nodes import IPInterface, Node


@dataclass(frozen=True, slots=True)
class Intent:
    """A policy's wish: the gateway node, the source address for each family it can give one, and the destinations."""

    policy: str
    gateway: Node
    sources: Mapping[int, IPAddress]
    destinations: tuple[IPNetwork, ...]
    excluded: tuple[IPNetwork, ...]

    def source(self, family: int) -> IPAddress:
        """The egress IP of that family; `LabError` if the policy gives none."""
        try:
            return self.sources[family]
        except KeyError:
            raise LabError(f"gives no IPv{family} egress IP", object=f"policy {self.policy}") from None


def read(policy: Object, nodes: Iterable[Node]) -> Intent:
    """The intent of a policy among these nodes.

    Raises `LabError` when no node is the gateway, or the gateway does not carry the address or interface asked for.
    """
    name, spec = policy["metadata"]["name"], policy["spec"]
    wanted: Mapping[str, Any] = spec["egressGateway"]
    labels = wanted["nodeSelector"].get("matchLabels") or {}
    matching = sorted(
        (node for node in nodes if all(node.labels.get(key) == value for key, value in labels.items())),
        key=lambda node: node.name.encode(),
    )
    shown = ",".join(f"{key}={value}" for key, value in labels.items())
    if not matching:
        raise LabError(
            "no node has these labels", object=f"policy {name}", field="spec.egressGateway.nodeSelector", value=shown
        )
    gateway = matching[0]
    return Intent(
        name,
        gateway,
        _sources(name, gateway, wanted.get("interface"), wanted.get("egressIP")),
        tuple(ipaddress.ip_network(cidr, strict=False) for cidr in spec.get("destinationCIDRs") or []),
        tuple(ipaddress.ip_network(cidr, strict=False) for cidr in spec.get("excludedCIDRs") or []),
    )


def _sources(policy: str, gateway: Node, interface: str | None, egress_ip: str | None) -> dict[int, IPAddress]:
    if interface:
        if interface not in gateway.interfaces:
            raise LabError("the gateway has no such interface", object=f"policy {policy}", value=interface)
        return _primaries(gateway.interfaces[interface])
    if egress_ip:
        address = ipaddress.ip_address(egress_ip)
        for carried in gateway.interfaces.values():
            if address in [entry.ip for entry in carried]:
                return {**_primaries(carried), address.version: address}
        raise LabError("no interface of the gateway carries it", object=f"policy {policy}", value=egress_ip)
    return {address.version: address for address in reversed(gateway.addresses)}


def _primaries(addresses: Iterable[IPInterface]) -> dict[int, IPAddress]:
    primaries: dict[int, IPAddress] = {}
    for address in addresses:
        if not address.ip.is_link_local:
            primaries.setdefault(address.version, address.ip)
    return primaries
