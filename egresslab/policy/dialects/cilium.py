"""`cilium.io/v2`: CiliumEgressGatewayPolicy, read as Cilium's agent reads it, refusals included.

The gateway stands inside the policy. Node health is not looked at (Cilium does not) unless a setting says so.
Source: Cilium's documentation of its egress gateway; where agent and schema differ, docs/differences.md tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from egresslab.policy.fields import Fields, open_object
from egresslab.policy.model import (
    Choice,
    Cidr,
    Dialect,
    EgressPolicy,
    Families,
    GatewayGroup,
    Member,
    PolicyKey,
    Selection,
    Source,
    SourceKind,
)
from egresslab.policy.selections import on_identity, read_selections

KIND = "CiliumEgressGatewayPolicy"
ASSIGN_ANNOTATION = "egresslab.dev/assign-egress-ip"
"""Not Cilium's: "true" asks for the egress IP to be put on the gateway, where nothing else does it."""
ASSIGN_TO_ANNOTATION = "egresslab.dev/assign-egress-ip-to"
"""The interface; without it, the one whose network has the address."""
MAX_GATEWAYS = 64


def parse_policy(obj: object, leftovers: list[str] | None = None) -> EgressPolicy:
    """The policy in one object; raises `PolicyError` for what Cilium's schema or agent refuses."""
    fields, metadata = open_object(obj, KIND)
    if leftovers is not None:
        fields.leftovers = leftovers
    name = metadata.text("name")
    spec = fields.child("spec")
    if spec is None:
        raise fields.refusal("spec", "is required", fix="add spec with selectors, destinationCIDRs and egressGateway")
    spec.leftovers = fields.leftovers
    if not spec.has("destinationCIDRs"):
        raise spec.refusal(
            "destinationCIDRs", "destinationCIDRs can't be empty", fix='list networks, e.g. ["0.0.0.0/0"]'
        )
    destinations = spec.cidrs("destinationCIDRs")
    exclusions = spec.cidrs("excludedCIDRs")
    gateways = list(spec.items("egressGateways"))
    single = spec.raw("egressGateway")
    if len(gateways) > MAX_GATEWAYS:
        raise spec.refusal(
            "egressGateways", f"at most {MAX_GATEWAYS} items", value=len(gateways), fix="shorten the list"
        )
    if not gateways:
        if single is None:
            raise spec.refusal(
                "egressGateway", "egressGateway can't be empty", fix="add egressGateway with a nodeSelector"
            )
        only = spec.child("egressGateway")
        assert only is not None
        gateways = [only]
        choice = Choice.FIRST_BY_NAME
    else:
        choice = Choice.HASH_MODULO
    annotations = metadata.raw("annotations")
    assign = annotations if isinstance(annotations, Mapping) else {}
    policy = EgressPolicy(
        key=PolicyKey(Dialect.CILIUM, name),
        selections=_selections(spec),
        destinations=destinations,
        exclusions=exclusions,
        group=GatewayGroup(
            key=None,
            members=tuple(_member(gateway, assign) for gateway in gateways),
            choice=choice,
            families=families_of(destinations),
        ),
    )
    spec.close()
    return policy


def families_of(destinations: tuple[Cidr, ...]) -> Families:
    """Which families the destinations need."""
    versions = {cidr.network.version for cidr in destinations}
    return Families(4 in versions, 6 in versions)


def _selections(spec: Fields) -> tuple[Selection, ...]:
    if not spec.has("selectors"):
        raise spec.refusal("selectors", "is required", fix="add selectors with a podSelector or namespaceSelector")
    return tuple(
        Selection(*on_identity(selection.pods, selection.namespaces), selection.nodes)
        for selection in read_selections(spec, needs_pod_or_namespace=True)
    )


def _member(gateway: Fields, annotations: Mapping[Any, Any]) -> Member:
    nodes = gateway.selector("nodeSelector")
    if nodes is None:
        raise gateway.refusal("nodeSelector", "is required", fix="add nodeSelector; {} means every node")
    interface = gateway.text("interface")
    address = gateway.address("egressIP")
    if interface and gateway.text("egressIP"):
        raise gateway.refusal(
            "egressIP",
            "gateway configuration can't specify both an interface and an egress IP",
            value=str(address),
            fix="remove interface or egressIP",
        )
    gateway.close()
    if interface:
        return Member(nodes, Source(SourceKind.INTERFACE, interface=interface))
    if address is not None:
        if annotations.get(ASSIGN_ANNOTATION) == "true":
            carrier = str(annotations.get(ASSIGN_TO_ANNOTATION) or "") or None
            return Member(nodes, Source(SourceKind.ADDRESS, carrier, (address,), assign=True))
        return Member(nodes, Source(SourceKind.ADDRESS, addresses=(address,)))
    return Member(nodes, Source())
