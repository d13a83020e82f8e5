"""`network.deckhouse.io/v1alpha1`: EgressGateway and EgressGatewayPolicy.

One active node for each gateway, elected among nodes that match, are Ready, not cordoned and not found unhealthy, by
the lowest SHA-256 of "gateway#node". A policy whose gateway does not exist drops, where the original lets packets leak.
"""

from __future__ import annotations

from enum import StrEnum

from egresslab.api.selectors import LabelSelector, Operator, Requirement
from egresslab.policy.fields import Fields, open_object
from egresslab.policy.model import (
    Choice,
    Dialect,
    EgressPolicy,
    Eligibility,
    Failback,
    FailbackPolicy,
    GatewayGroup,
    GroupKey,
    Member,
    PolicyKey,
    Selection,
    Source,
    SourceKind,
)
from egresslab.policy.selections import on_identity


class Mode(StrEnum):
    """Where the source address comes from."""

    VIRTUAL_IP = "VirtualIPAddress"
    PRIMARY_IP = "PrimaryIPFromEgressGatewayNodeInterface"


ELIGIBLE = Eligibility(ready=True, schedulable=True, healthy=True, sourced=True)


def parse_gateway(obj: object, leftovers: list[str] | None = None) -> GatewayGroup:
    """The group in one EgressGateway; raises `PolicyError`."""
    fields, metadata = open_object(obj, "EgressGateway")
    if leftovers is not None:
        fields.leftovers = leftovers
    spec = fields.child("spec")
    source_ip = spec.child("sourceIP") if spec else None
    if spec is None or source_ip is None:
        raise fields.refusal("spec.sourceIP", "is required", fix=f"add sourceIP with mode {' or '.join(Mode)}")
    # Equality only: the selector is a plain map here; an empty one matches every node.
    labels = spec.string_map("nodeSelector")
    nodes = LabelSelector(
        tuple(Requirement(key, Operator.IN, frozenset((value,))) for key, value in sorted(labels.items()))
    )
    announce: tuple[str, ...] = ()
    if source_ip.one_of("mode", Mode) is Mode.VIRTUAL_IP:
        block = _block(source_ip, "virtualIPAddress", "the address in its field ip")
        address = block.address("ip")
        if address is None:
            raise block.refusal("ip", "is required", fix="write the virtual address")
        announce = block.texts("interfaces")
        source = Source(SourceKind.VIRTUAL, addresses=(address,))
    else:
        block = _block(source_ip, "primaryIPFromEgressGatewayNodeInterface", "the interface in interfaceName")
        interface = block.required_text("interfaceName", "name the interface, e.g. eth1")
        source = Source(SourceKind.INTERFACE, interface=interface)
    for part in (block, source_ip, spec):
        part.close()
    return GatewayGroup(
        key=GroupKey(Dialect.DECKHOUSE, metadata.text("name")),
        members=(Member(nodes, source),),
        choice=Choice.LOWEST_HASH,
        eligibility=ELIGIBLE,
        announce_interfaces=announce,
        failback=Failback(FailbackPolicy.NEVER),
    )


def parse_policy(obj: object, leftovers: list[str] | None = None) -> EgressPolicy:
    """The policy in one EgressGatewayPolicy; raises `PolicyError`."""
    fields, metadata = open_object(obj, "EgressGatewayPolicy")
    if leftovers is not None:
        fields.leftovers = leftovers
    spec = fields.child("spec")
    if spec is None:
        raise fields.refusal("spec", "is required", fix="add spec with egressGatewayName")
    gateway = spec.required_text("egressGatewayName", "name the EgressGateway to use")
    if not spec.has("destinationCIDRs"):
        raise spec.refusal(
            "destinationCIDRs", "without it nothing is selected", fix='list networks, e.g. ["0.0.0.0/0"]'
        )
    policy = EgressPolicy(
        key=PolicyKey(Dialect.DECKHOUSE, metadata.text("name")),
        selections=tuple(_selection(entry) for entry in spec.items("selectors")),
        destinations=spec.cidrs("destinationCIDRs"),
        exclusions=spec.cidrs("excludedCIDRs"),
        group=GroupKey(Dialect.DECKHOUSE, gateway),
    )
    spec.close()
    return policy


def _block(source_ip: Fields, name: str, what: str) -> Fields:
    block = source_ip.child(name)
    if block is None:
        raise source_ip.refusal(name, "is required in this mode", fix=f"add it, with {what}")
    return block


def _selection(entry: Fields) -> Selection:
    pods = entry.selector("podSelector")
    if pods is None:
        raise entry.refusal("podSelector", "is required", fix="add podSelector; {} selects every pod")
    entry.close()
    return Selection(*on_identity(pods, None))
