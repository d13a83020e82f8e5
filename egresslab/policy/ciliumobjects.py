"""A policy and its gateway in Cilium's words: the CiliumEgressGatewayPolicies that lead to the node that is active now.

Pure. What Cilium has no words for is said, and fails closed where it can: a gateway selector that no node matches makes
Cilium drop ("No egress gateway found").
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from egresslab.api.selectors import LabelSelector, Operator, Requirement
from egresslab.policy.model import Dialect, EgressPolicy, FailMode, GatewayGroup, Selection, SourceKind
from egresslab.policy.sources import Resolved

HOSTNAME = "kubernetes.io/hostname"
NOBODY = {"egresslab.dev/no-gateway": "true"}
"""A label that no node has."""
LONGEST_NAME = 253
"""Of an object (RFC 1123 subdomain)."""
SUFFIXES = {Dialect.EGRESSLAB: "egresslab", Dialect.DECKHOUSE: "deckhouse"}
FAMILIES = {4: "ipv4", 6: "ipv6"}


@dataclass(frozen=True, slots=True)
class Active:
    """The gateway of now: `hostname` as the label kubernetes.io/hostname of the node says it, and what it leaves
    with."""

    hostname: str
    source: Resolved


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object: its name and its spec, JSON of which does not depend on the order of anything."""

    name: str
    spec: dict[str, Any]

    @property
    def digest(self) -> str:
        """Names the spec's content."""
        return digest(self.spec)


@dataclass(frozen=True, slots=True)
class Translation:
    """`lost`: what the policy or its gateway asks for and the objects do not do, in words."""

    objects: tuple[Wanted, ...]
    lost: tuple[str, ...]


def digest(spec: object) -> str:
    """Of a spec as an API server returns it: empty lists and objects that it fills in count for nothing."""
    return hashlib.sha256(json.dumps(_bare(spec), sort_keys=True).encode()).hexdigest()[:16]


def translate(policy: EgressPolicy, group: GatewayGroup | None, active: Active | None) -> Translation:
    """The objects for a policy; `group` None: its gateway does not exist; `active` None: nobody is the gateway.

    One object for each address family, since Cilium lets families fail together, and for each nodeSelector, since
    Cilium pools those of all selectors of a policy.
    """
    lost = list(_lost(policy, group))
    if active is None and policy.fail_mode is FailMode.OPEN:
        return Translation((), tuple(lost))
    by_nodes: dict[str, list[Selection]] = {}
    for selection in policy.selections:
        by_nodes.setdefault(str(selection.nodes) if selection.nodes is not None else "", []).append(selection)
    objects = []
    for version, family in FAMILIES.items():
        destinations = sorted({c.written for c in policy.destinations if c.network.version == version})
        if not destinations:
            continue
        gateway = _gateway(group, active, version)
        if gateway is None and active is not None and group is not None and group.standby:
            lost.append(f"{active.hostname} has no {family} address to leave with: {family} is dropped")
        for number, nodes in enumerate(sorted(by_nodes), start=1):
            spec: dict[str, Any] = {
                "selectors": [_selector(selection) for selection in by_nodes[nodes]],
                "destinationCIDRs": destinations,
                "egressGateway": gateway or {"nodeSelector": {"matchLabels": dict(NOBODY)}},
            }
            if excluded := sorted({c.written for c in policy.exclusions if c.network.version == version}):
                spec["excludedCIDRs"] = excluded
            objects.append(Wanted(_name(policy, family, number), spec))
    return Translation(tuple(objects), tuple(lost))


def label_value(text: str) -> str:
    """The text where it fits into a label (63 characters), else what stands for it."""
    return text if len(text) <= 63 else f"sha256-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def hostname_of(spec: object) -> str | None:
    """Whom an object leads to, as `translate` wrote it; None for nobody."""
    try:
        found = spec["egressGateway"]["nodeSelector"]["matchLabels"].get(HOSTNAME)  # type: ignore[index]
    except (KeyError, TypeError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _lost(policy: EgressPolicy, group: GatewayGroup | None) -> Iterator[str]:
    if policy.domains:
        yield f"destinationDomains: Cilium's policies know CIDRs only; nothing is done for {', '.join(policy.domains)}"
    if policy.priority:
        yield "priority: Cilium's policies have none; where policies overlap, the outcome is open"
    if group is None:
        return
    if not group.standby:
        yield "mode Spread: this backend leads to one node, the active one; use mode: Standby"
        return
    for version, family in FAMILIES.items():
        own = [a for a in group.members[0].source.addresses if a.version == version]
        if len(own) > 1 and group.members[0].source.kind is SourceKind.VIRTUAL:
            yield f"{family}: one egress IP for each policy in Cilium; {', '.join(map(str, own[1:]))} is not used"


def _gateway(group: GatewayGroup | None, active: Active | None, version: int) -> dict[str, Any] | None:
    """The block egressGateway; None for nobody."""
    if group is None or active is None or not group.standby:
        return None
    found: dict[str, Any] = {"nodeSelector": {"matchLabels": {HOSTNAME: active.hostname}}}
    source = group.members[0].source
    address = active.source.of(version)[0]
    if address is None:
        return None
    if source.kind in (SourceKind.VIRTUAL, SourceKind.ADDRESS):
        found["egressIP"] = str(address)
    elif source.kind is SourceKind.INTERFACE:
        found["interface"] = source.interface
    return found


def _selector(selection: Selection) -> dict[str, Any]:
    found: dict[str, Any] = {"podSelector": _labels(selection.pods)}
    if selection.namespaces is not None:
        found["namespaceSelector"] = _labels(selection.namespaces)
    if selection.nodes is not None:
        found["nodeSelector"] = _labels(selection.nodes)
    return found


def _labels(selector: LabelSelector) -> dict[str, Any]:
    """`LabelSelector` as the API writes it."""
    keys = Counter(requirement.key for requirement in selector.requirements)
    simple = [r for r in selector.requirements if r.operator is Operator.IN and len(r.values) == 1 and keys[r.key] == 1]
    found: dict[str, Any] = {}
    if simple:
        found["matchLabels"] = {r.key: next(iter(r.values)) for r in simple}
    if others := [_expression(r) for r in selector.requirements if r not in simple]:
        found["matchExpressions"] = others
    return found


def _expression(requirement: Requirement) -> dict[str, Any]:
    found: dict[str, Any] = {"key": requirement.key, "operator": str(requirement.operator)}
    if requirement.values:
        found["values"] = sorted(requirement.values)
    return found


def _name(policy: EgressPolicy, family: str, number: int) -> str:
    suffix = "-".join([SUFFIXES[policy.key.dialect], family, *([str(number)] if number > 1 else [])])
    name = f"{policy.key.name}-{suffix}"
    if len(name) <= LONGEST_NAME:
        return name
    short = hashlib.sha256(policy.key.name.encode()).hexdigest()[:16]
    return f"{policy.key.name[: LONGEST_NAME - len(suffix) - 18].rstrip('-.')}-{short}-{suffix}"


def _bare(value: object) -> object:
    if isinstance(value, dict):
        # An empty selector means everything, which is not nothing.
        return {k: _bare(v) for k, v in value.items() if k.endswith("elector") or v not in ([], {}, "", None)}
    return [_bare(item) for item in value] if isinstance(value, list) else value
