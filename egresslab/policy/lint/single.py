"""Rules that need no more than the object itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from egresslab.policy.identities import outside_identities
from egresslab.policy.lint.findings import (
    ADDRESS_NOT_WATCHED,
    FAMILY,
    HOST_BITS,
    IGNORED_GATEWAY,
    OUTSIDE_IDENTITY,
    POOLED_NODES,
    USELESS_EXCLUSION,
)
from egresslab.policy.lint.situation import Report
from egresslab.policy.model import (
    Address,
    Choice,
    Cidr,
    Dialect,
    EgressPolicy,
    GatewayGroup,
    Member,
    SourceKind,
)


def check_policy(index: int, policy: EgressPolicy, obj: object, report: Report) -> None:
    """All rules of this module for one policy."""
    for name, cidrs in (("destinationCIDRs", policy.destinations), ("excludedCIDRs", policy.exclusions)):
        for number, cidr in enumerate(cidrs):
            _host_bits(index, f"spec.{name}[{number}]", cidr, report)
    for number, exclusion in enumerate(policy.exclusions):
        if not policy.domains and not any(contains(cidr, exclusion) for cidr in policy.destinations):
            message = f"{exclusion.written} is in none of the destinations"
            report(
                index, USELESS_EXCLUSION, f"spec.excludedCIDRs[{number}]", message, "remove it, or widen a destination"
            )
    if isinstance(policy.group, GatewayGroup):
        for number, member in enumerate(policy.group.members):
            path = gateway_path(policy.group, number)
            check_families(index, path, member, policy.destinations, report)
            if member.source.kind is SourceKind.ADDRESS:
                address = member.source.addresses[0]
                message = f"Cilium looks for {address} when a policy or a node changes, and at no other time"
                fix = "on Cilium, touch the policy after the address has moved"
                report(index, ADDRESS_NOT_WATCHED, f"{path}.egressIP", message, fix)
    if policy.key.dialect is not Dialect.EGRESSLAB:
        _identities(index, policy, report)
    if policy.key.dialect is Dialect.CILIUM:
        _cilium_only(index, policy, obj, report)


def check_families(index: int, path: str, member: Member, destinations: Iterable[Cidr], report: Report) -> None:
    """Destinations of a family of which no egress IP was given."""
    if member.source.kind not in (SourceKind.ADDRESS, SourceKind.VIRTUAL):
        return
    given = {address.version for address in member.source.addresses}
    for version in sorted({cidr.network.version for cidr in destinations} - given):
        addresses = ", ".join(str(address) for address in member.source.addresses)
        message = f"IPv{version} destinations, but {addresses} is IPv{'4' if version == 6 else '6'} only"
        fix = f"remove the IPv{version} destinations, or give an IPv{version} egress IP"
        report(index, FAMILY, path, message, fix)


def gateway_path(group: GatewayGroup, number: int) -> str:
    """Where a gateway stands inside its policy."""
    return f"spec.egressGateways[{number}]" if group.choice is Choice.HASH_MODULO else "spec.egressGateway"


def contains(outer: Cidr, inner: Cidr) -> bool:
    """Whether one network lies in another of its family."""
    big, small = outer.network, inner.network
    return big.version == small.version and big.prefixlen <= small.prefixlen and small.network_address in big


def _host_bits(index: int, path: str, cidr: Cidr, report: Report) -> None:
    if cidr.written == str(cidr.network):
        return
    address: Address = cidr.network.network_address
    message = f"{cidr.written} has host bits set; the kernel matches {cidr.network}"
    whole = f"{cidr.written.partition('/')[0]}/{address.max_prefixlen}"
    report(index, HOST_BITS, path, message, f"write {cidr.network}, or {whole} for the one address")


def _identities(index: int, policy: EgressPolicy, report: Report) -> None:
    for number, selection in enumerate(policy.selections):
        for key in sorted({wish.key for wish in selection.pods.requirements if outside_identities(wish.key)}):
            message = f"Cilium leaves {key} out of identities unless told otherwise, so it takes no pod to have it"
            fix = "select by another label, or name it in Cilium's option `labels`"
            report(index, OUTSIDE_IDENTITY, f"spec.selectors[{number}].podSelector", message, fix)


def _cilium_only(index: int, policy: EgressPolicy, obj: object, report: Report) -> None:
    pooled = [selection.nodes for selection in policy.selections if selection.nodes is not None]
    if pooled and any(selection.nodes != pooled[0] for selection in policy.selections):
        message = "entries differ in nodeSelector: Cilium selects a pod of any entry on a node of any nodeSelector"
        report(index, POOLED_NODES, "spec.selectors", message, "make a policy of each entry with a nodeSelector")
    spec: Mapping[str, Any] = obj["spec"] if isinstance(obj, Mapping) else {}
    if spec.get("egressGateways") and spec.get("egressGateway"):
        fix = "remove it, unless the API server's schema asks for it"
        report(index, IGNORED_GATEWAY, "spec.egressGateway", "egressGateways is set, so this is not used", fix)
