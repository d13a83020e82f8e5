"""What a drill is done on: a gateway with its candidates, and a policy that sends the drill's own pod through it.

Either an EgressGateway that is there already, or one made for the drill, in any of the three ways of addressing. The
policy selects the drill's pod and nothing else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from egresslab.api.connection import ApiError
from egresslab.api.resources import (
    CILIUM_POLICIES,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    Object,
    Resource,
)
from egresslab.errors import LabError
from egresslab.lab.client import Client
from egresslab.lab.drills.families import Family
from egresslab.lab.entries import IPAddress
from egresslab.lab.nodes import IPInterface, Node
from egresslab.policy.dialects import deckhouse
from egresslab.policy.dialects import egresslab as own_dialect
from egresslab.policy.model import GatewayGroup, SourceKind

POD_LABELS = {"app": "egresslab-drill"}
LABEL = "egresslab.dev/drill"
HOST_IN_NETWORK = {Family.IPV4: 242, Family.IPV6: 0x242}
"""Last part of the virtual address that a drill takes when none is named; it reads the same in both families."""


class Addressing(StrEnum):
    """How the gateway made for a drill finds its source address."""

    VIRTUAL_IP = "virtual-ip"
    PRIMARY_IP = "primary-ip"
    CILIUM = "cilium"
    """A CiliumEgressGatewayPolicy: no standby at all."""


@dataclass(frozen=True, slots=True)
class Scene:
    """`candidates` by name; `sources` are the addresses that the world may see; `objects` are to be applied, each with
    its resource; `labels` are to be set on every candidate, and `label` (key, value) is what makes one of it."""

    name: str
    addressing: Addressing
    candidates: tuple[str, ...]
    sources: frozenset[IPAddress]
    label: tuple[str, str]
    objects: tuple[tuple[Resource, Object], ...]
    labelled_here: bool

    @property
    def virtual(self) -> IPAddress | None:
        """The virtual address, if there is one."""
        return min(self.sources) if self.addressing is Addressing.VIRTUAL_IP else None


def own(
    addressing: Addressing,
    nodes: Sequence[Node],
    *,
    run: str,
    interface: str,
    namespace: str,
    target: str,
    virtual: IPAddress | None,
) -> Scene:
    """A gateway made for the drill, with these nodes as candidates; its addresses are of the target's family."""
    family = Family.of(ipaddress.ip_address(target))
    name, selector = f"drill-{run}", {LABEL: run}
    spec: dict[str, Any] = {"nodeSelector": {"matchLabels": selector}}
    if addressing is Addressing.CILIUM:
        sources = _primaries(nodes, interface, family)
        policy = _policy(CILIUM_POLICIES, name, namespace, target, egressGateway={**spec, "interface": interface})
        return Scene(name, addressing, _names(nodes), sources, (LABEL, run), (policy,), True)
    if addressing is Addressing.VIRTUAL_IP:
        virtual = virtual or _spare(nodes[0], interface, family)
        spec["source"] = {"virtualIPs": [str(virtual)], "announceInterfaces": [interface]}
        sources = frozenset((virtual,))
    else:
        spec["source"] = {"interface": interface}
        sources = _primaries(nodes, interface, family)
    gateway = _body(EGRESSLAB_GATEWAYS, name, spec)
    policy = _policy(EGRESSLAB_POLICIES, name, namespace, target, egressGatewayName=name)
    objects = ((EGRESSLAB_GATEWAYS, gateway), policy)
    return Scene(name, addressing, _names(nodes), sources, (LABEL, run), objects, True)


def existing(client: Client, name: str, nodes: Sequence[Node], *, run: str, namespace: str, target: str) -> Scene:
    """An EgressGateway of either dialect that is there already; `LabError` if there is none, no node matches it, or it
    has no address of the target's family."""
    family = Family.of(ipaddress.ip_address(target))
    body, policies, group = _find(client, name)
    member = group.members[0]
    matching = [node for node in nodes if member.nodes.matches(node.labels)]
    if not matching:
        raise LabError("no node matches it", object=f"EgressGateway {name}", field="spec.nodeSelector")
    policy = _policy(policies, f"drill-{run}", namespace, target, egressGatewayName=name)
    if member.source.kind is SourceKind.VIRTUAL:
        addressing, sources = Addressing.VIRTUAL_IP, _those(family, group.virtual_addresses)
    else:
        addressing = Addressing.PRIMARY_IP
        named = member.source.addresses
        sources = _those(family, named) if named else _primaries(matching, member.source.interface or "eth0", family)
    if not sources:
        raise LabError(
            f"has no {family.label} address",
            object=f"EgressGateway {name}",
            fix="ask for a drill of the other family",
        )
    label = _label_of(body, matching)
    return Scene(name, addressing, _names(matching), sources, label, (policy,), labelled_here=False)


def _find(client: Client, name: str) -> tuple[Object, Resource, GatewayGroup]:
    for gateways, policies, parse in (
        (EGRESSLAB_GATEWAYS, EGRESSLAB_POLICIES, own_dialect.parse_gateway),
        (DECKHOUSE_GATEWAYS, DECKHOUSE_POLICIES, deckhouse.parse_gateway),
    ):
        try:
            body = client.find(gateways, name)
        except ApiError:
            continue  # a cluster without that dialect
        if body is not None:
            return body, policies, parse(body)
    raise LabError("there is none of that name", object=f"EgressGateway {name}", fix="kubectl get egressgateways -A")


def _label_of(gateway: Object, nodes: Iterable[Node]) -> tuple[str, str]:
    """A label that all candidates carry because the gateway asks for it."""
    selector = gateway["spec"].get("nodeSelector") or {}
    keys = [*(selector.get("matchLabels") or {}), *(e["key"] for e in selector.get("matchExpressions") or [])]
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        keys = list(selector)
    for key in keys:
        values = {node.labels.get(key) for node in nodes}
        if len(values) == 1 and (value := values.pop()) is not None:
            return key, value
    raise LabError(
        "asks for no label that could be taken away",
        object=f"EgressGateway {gateway['metadata']['name']}",
        field="spec.nodeSelector",
        fix="select nodes by a label of their own",
    )


def _policy(resource: Resource, name: str, namespace: str, target: str, **spec: Any) -> tuple[Resource, Object]:
    pods = {"matchLabels": {**POD_LABELS, "io.kubernetes.pod.namespace": namespace}}
    rules = {"selectors": [{"podSelector": pods}], "destinationCIDRs": [str(ipaddress.ip_network(target))], **spec}
    return resource, _body(resource, name, rules)


def _body(resource: Resource, name: str, spec: dict[str, Any]) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec}


def _names(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(sorted(node.name for node in nodes))


def _those(family: Family, addresses: Iterable[str | IPAddress]) -> frozenset[IPAddress]:
    return frozenset(address for address in map(ipaddress.ip_address, addresses) if Family.of(address) is family)


def _carried(node: Node, interface: str, family: Family) -> list[IPInterface]:
    """Addresses that the world may see; link-local ones it may not."""
    return [a for a in node.interfaces.get(interface, ()) if Family.of(a.ip) is family and not a.ip.is_link_local]


def _primaries(nodes: Iterable[Node], interface: str, family: Family) -> frozenset[IPAddress]:
    found: set[IPAddress] = set()
    for node in nodes:
        carried = _carried(node, interface, family)
        if not carried:
            raise LabError(
                f"has no {family.label} address there", object=f"node {node.name}", field="interface", value=interface
            )
        found.add(carried[0].ip)
    return frozenset(found)


def _spare(node: Node, interface: str, family: Family) -> IPAddress:
    host = HOST_IN_NETWORK[family]
    for address in _carried(node, interface, family):
        if address.network.num_addresses > host:
            return address.network[host]
    raise LabError(
        f"no {family.label} address to take on that interface",
        object=f"node {node.name}",
        value=interface,
        fix="name one with --virtual-ip",
    )
