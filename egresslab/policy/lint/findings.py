"""A finding: which rule, how bad, which object and field, what to do. And the rules by name, for SARIF's catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """SARIF's levels, which are also ours."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that lint looks for."""

    name: str
    level: Level
    summary: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found; `field` is the path inside the object, empty for the whole."""

    rule: Rule
    subject: str
    field: str
    message: str
    fix: str


def _rule(name: str, level: Level, summary: str) -> Rule:
    return Rule(name, level, summary)


REFUSED = _rule("refused", Level.ERROR, "The object is refused as a whole.")
SCHEMA = _rule("schema", Level.ERROR, "The API server's schema refuses the object.")
UNKNOWN_FIELD = _rule("unknown-field", Level.WARNING, "Nobody reads the field; the API server drops it.")
SELECTS_NOTHING = _rule("selects-nothing", Level.WARNING, "A selector entry matches no pod.")
NO_GATEWAY_NODE = _rule("no-gateway-node", Level.ERROR, "No node can be the gateway: selected traffic is dropped.")
MISSING_GATEWAY = _rule(
    "missing-gateway", Level.ERROR, "The gateway object does not exist: dropped here, leaked by Deckhouse."
)
SEVERAL_GATEWAY_NODES = _rule(
    "several-gateway-nodes", Level.WARNING, "Several nodes match one gateway, and Cilium uses the first by name only."
)
EGRESS_IP_NOWHERE = _rule("egress-ip-nowhere", Level.ERROR, "The egress IP is on no interface of the gateway.")
EGRESS_IP_UNSEEN = _rule(
    "egress-ip-unseen",
    Level.WARNING,
    "No object shows that the gateway carries the egress IP, and none that it does not.",
)
INTERFACE_MISSING = _rule("interface-missing", Level.ERROR, "The gateway lacks the interface or its addresses.")
TOO_MANY_ADDRESSES = _rule(
    "too-many-addresses", Level.WARNING, "A gateway has more addresses of one family than it can use."
)
IN_CLUSTER = _rule("in-cluster-destination", Level.WARNING, "A destination overlaps the cluster and is not excluded.")
WHOLE_WORLD = _rule("default-route-destination", Level.NOTE, "A destination of length 0 also covers the cluster.")
OVERLAP = _rule("overlapping-policies", Level.WARNING, "Two policies select a pod and overlap in destinations.")
CONFLICT = _rule("conflict", Level.WARNING, "Two claims on one prefix differ: undefined in Cilium, by name here.")
HOST_BITS = _rule("host-bits", Level.WARNING, "Host bits are set in a CIDR.")
FAMILY = _rule("family-mismatch", Level.WARNING, "Destinations of a family for which the gateway has no egress IP.")
USELESS_EXCLUSION = _rule("useless-exclusion", Level.WARNING, "An exclusion outside all destinations does nothing.")
IGNORED_GATEWAY = _rule("ignored-gateway", Level.NOTE, "egressGateway is ignored where egressGateways is set.")
MAP_FULL = _rule("map-full", Level.WARNING, "More entries than the map holds: Cilium fails open, we refuse loudly.")
DUPLICATE = _rule("duplicate", Level.WARNING, "The same object is there twice; the later one counts.")
POOLED_NODES = _rule(
    "pooled-node-selectors", Level.WARNING, "Cilium applies each nodeSelector to all entries; here it binds to its own."
)
OUTSIDE_IDENTITY = _rule(
    "label-outside-identity",
    Level.WARNING,
    "Cilium leaves the label out of identities by default, and no podSelector meets it there.",
)
SEVERAL_ADDRESSES = _rule(
    "several-addresses", Level.WARNING, "Of an interface's addresses Cilium takes the best by its order, we the first."
)
ADDRESS_NOT_WATCHED = _rule(
    "address-not-watched", Level.NOTE, "Cilium does not notice when the egress address appears or moves; we do."
)
UNTRANSLATABLE = _rule(
    "untranslatable-protocols", Level.NOTE, "GRE, ESP and the like leak untranslated in Cilium; here they are dropped."
)

RULES: tuple[Rule, ...] = (
    REFUSED,
    SCHEMA,
    UNKNOWN_FIELD,
    SELECTS_NOTHING,
    NO_GATEWAY_NODE,
    MISSING_GATEWAY,
    SEVERAL_GATEWAY_NODES,
    EGRESS_IP_NOWHERE,
    EGRESS_IP_UNSEEN,
    INTERFACE_MISSING,
    TOO_MANY_ADDRESSES,
    IN_CLUSTER,
    WHOLE_WORLD,
    OVERLAP,
    CONFLICT,
    HOST_BITS,
    FAMILY,
    USELESS_EXCLUSION,
    IGNORED_GATEWAY,
    MAP_FULL,
    DUPLICATE,
    POOLED_NODES,
    OUTSIDE_IDENTITY,
    SEVERAL_ADDRESSES,
    ADDRESS_NOT_WATCHED,
    UNTRANSLATABLE,
)
