"""What policies imply against what a node's kernel holds, row by row. Pure: listings in, differences out.

A listing is what `cilium-dbg bpf egress list -o json` prints, or ours. Destinations are compared as networks: whether
host bits are kept in a key depends on Cilium's version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from egresslab.errors import PolicyError
from egresslab.policy.engine import Engine
from egresslab.policy.entries import EXCLUDED, NO_GATEWAY, Entry, Slot
from egresslab.policy.inventory import Node
from egresslab.policy.model import Address, Network
from egresslab.policy.rows import ListedRow, listing

SPECIAL = {"not found": str(NO_GATEWAY), "excluded cidr": str(EXCLUDED)}
NO_SOURCES = frozenset({"0.0.0.0", "::"})
FIELDS = ("sourceip", "destcidr", "egressip", "gatewayip")
ANY = "any"
"""An egress IP that must be there and is not known here, since nobody says what the gateway's interfaces carry."""


class Kind(StrEnum):
    """What is wrong with a row."""

    MISSING = "missing"
    """Policies imply it, the kernel does not have it: the pod leaves as if there were no policy."""
    STALE = "stale"
    """The kernel has it, no policy implies it."""
    DIFFERENT = "different"
    """Another gateway or egress IP than policies imply."""


class Whose(StrEnum):
    """Whose agents are asked."""

    AUTO = "auto"
    """Ours where they run, else Cilium's."""
    CILIUM = "cilium"
    EGRESSLAB = "egresslab"


class Key(NamedTuple):
    """What a row is found by."""

    source: Address
    destination: Network


class Outcome(NamedTuple):
    """Where it leads, as addresses: 0.0.0.0 for no gateway, 0.0.0.1 for an exclusion."""

    gateway: str
    egress: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of one node. `pod` is NAMESPACE/NAME, empty for an address of no known pod; `policy` the one that implies
    the row, empty for a stale one."""

    node: str
    kind: Kind
    source: str
    destination: str
    pod: str
    policy: str
    expected_gateway: str = ""
    expected_egress: str = ""
    found_gateway: str = ""
    found_egress: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"kind": str(self.kind)}


@dataclass(frozen=True, slots=True)
class Implied:
    """What the policies of one cluster imply; the same for every node but for egress IPs."""

    rows: Mapping[str | None, list[ListedRow]]
    """As each node that is some gateway holds them; None: as every other node does."""
    pods: Mapping[Address, str]
    asked: Mapping[tuple[str, str], tuple[Address, ...]]
    """By gateway node, of whose interfaces nothing is known, and policy: the addresses that the policy names."""

    def on(self, node: str) -> list[ListedRow]:
        """Rows that the node's kernel should hold."""
        return self.rows.get(node, self.rows[None])


def implied(engine: Engine) -> Implied:
    """What an engine's policies imply on every node."""
    entries, slots = list(engine.entries()), engine.slots()
    gateways = {slot.gateway for slot in slots.values() if slot.gateway is not None}
    rows: dict[str | None, list[ListedRow]] = {None: listing(entries, slots, "")}
    rows |= {node: listing(entries, slots, node) for node in gateways}
    pods = {address: str(state.pod) for state in engine.pods.by_uid.values() for address in state.pod.addresses}
    return Implied(rows, pods, dict(_asked(engine, entries, slots)))


def _asked(
    engine: Engine, entries: Iterable[Entry], slots: Mapping[int, Slot]
) -> Iterator[tuple[tuple[str, str], tuple[Address, ...]]]:
    nodes: Mapping[str, Node] = engine.registry.nodes
    for policy, number in {(entry.policy, entry.slot) for entry in entries}:
        gateway = slots[number].gateway
        if gateway is None or nodes[gateway].interfaces is not None:
            continue
        group = engine.registry.policies[policy].group.group
        sources = [member.source for member in group.members] if group is not None else []
        yield (gateway, policy.name), tuple(address for source in sources for address in source.addresses)


def parse_listing(text: str, node: str) -> dict[Key, Outcome]:
    """Rows of a listing in JSON; nothing at all is an empty one. Raises `PolicyError` for anything else."""
    try:
        raw: Any = json.loads(text) if text.strip() else []
        if raw is None or raw == {}:
            raw = []
        if not isinstance(raw, list):
            raise TypeError("not a list")
        return dict(_parsed(row) for row in raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PolicyError(
            f"not a listing of egress entries: {error}", object=f"Node/{node}", value=text.strip()[:80]
        ) from error


def _parsed(row: Any) -> tuple[Key, Outcome]:
    source, destination, egress, gateway = ({k.lower(): v for k, v in row.items()}[name] for name in FIELDS)
    via = SPECIAL.get(gateway.lower(), gateway)
    key = Key(ip_address(source), ip_network(destination, strict=False))
    return key, Outcome(str(ip_address(via)), str(ip_address(egress)))


def compare(wanted: Implied, node: str, found: Mapping[Key, Outcome]) -> list[Difference]:
    """What is missing, stale and different on a node, in the order of sources and destinations."""
    expected: dict[Key, tuple[ListedRow, Outcome]] = {}
    for row in wanted.on(node):
        expected[_key(row)] = row, _outcome(row, wanted, node)
    differences = []
    for key in sorted(expected.keys() | found.keys(), key=_order):
        there = found.get(key)
        pod = wanted.pods.get(key.source, "")
        if key not in expected:
            assert there is not None
            differences.append(
                Difference(node, Kind.STALE, str(key.source), str(key.destination), pod, "", "", "", *there)
            )
            continue
        row, outcome = expected[key]
        if there is None:
            differences.append(Difference(node, Kind.MISSING, row.source, row.destination, pod, row.policy, *outcome))
        elif not _agree(outcome, there):
            differences.append(
                Difference(node, Kind.DIFFERENT, row.source, row.destination, pod, row.policy, *outcome, *there)
            )
    return differences


def _outcome(row: ListedRow, wanted: Implied, node: str) -> Outcome:
    asked = wanted.asked.get((node, row.policy)) if row.gateway_node == node else None
    if asked is None:
        return Outcome(row.gateway_ip, row.egress_ip)
    fitting = [str(address) for address in asked if address.version == ip_address(row.source).version]
    return Outcome(row.gateway_ip, fitting[0] if len(fitting) == 1 else ANY)


def _agree(wanted: Outcome, found: Outcome) -> bool:
    if wanted.gateway != found.gateway:
        return False
    if wanted.gateway == str(EXCLUDED):
        return True  # nothing is translated: whether an egress IP is listed is a matter of taste
    return found.egress not in NO_SOURCES if wanted.egress == ANY else wanted.egress == found.egress


def _key(row: ListedRow) -> Key:
    return Key(ip_address(row.source), ip_network(row.destination, strict=False))


def _order(key: Key) -> tuple[int, int, int, int]:
    destination = key.destination
    return key.source.version, int(key.source), int(destination.network_address), destination.prefixlen
