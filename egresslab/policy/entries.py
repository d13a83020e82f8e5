"""What the engine puts out: entries, slots, and how they change. Everything is node-neutral until `localise`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from egresslab.policy.inventory import Ref, Value
from egresslab.policy.model import Address, GroupKey, Network, PolicyKey
from egresslab.policy.settings import Settings

NO_GATEWAY = IPv4Address("0.0.0.0")
EXCLUDED = IPv4Address("0.0.0.1")
NO_SOURCE_V4 = IPv4Address("0.0.0.0")
NO_SOURCE_V6 = IPv6Address("::")


@dataclass(frozen=True, slots=True)
class Upsert:
    """A value appeared or changed."""

    value: Value


@dataclass(frozen=True, slots=True)
class Delete:
    """A value is gone; `ref_of(value)` or `value.ref` names it."""

    ref: Ref


@dataclass(frozen=True, slots=True)
class Refuse:
    """A policy or gateway object was refused; `subject` is its `Kind/name`, `ref` what it would have replaced.

    The version that was accepted before, if any, stays in force, as in Cilium.
    """

    ref: Ref
    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class Configure:
    """Other settings from now on; `fidelity` and `buckets` are for an engine's whole life."""

    settings: Settings


Change = Upsert | Delete | Refuse | Configure


class Entry(NamedTuple):
    """(source, destination) -> slot. An excluded one passes untranslated and keeps the slot for listings.

    A tuple and no dataclass: there are hundreds of thousands. `written` is the destination as the policy has it.
    """

    source: Address
    destination: Network
    slot: int
    excluded: bool
    policy: PolicyKey
    written: str


class EntryChange(NamedTuple):
    """One entry before and after; None before means added, None after removed."""

    before: Entry | None
    after: Entry | None


@dataclass(frozen=True, slots=True)
class Slot:
    """One gateway choice under a small integer that is never 0 and does not change while the choice exists.

    `gateway` None: no eligible node. `interface` None: the routing table decides. `fail_open`: without a gateway,
    traffic passes untranslated instead of being dropped. `spill` holds further sources for when ports run out. `lease`:
    the standby group whose holder the gateway is, so that nodes follow the holder and not this slot.
    """

    number: int
    gateway: str | None
    gateway_ip: IPv4Address | None
    source_v4: IPv4Address | None = None
    source_v6: IPv6Address | None = None
    interface: str | None = None
    spill_v4: tuple[IPv4Address, ...] = ()
    spill_v6: tuple[IPv6Address, ...] = ()
    fail_open: bool = False
    lease: GroupKey | None = None


@dataclass(frozen=True, slots=True)
class SlotChange:
    """One slot before and after; None before means added, None after removed."""

    before: Slot | None
    after: Slot | None


@dataclass(slots=True)
class Changes:
    """What one or several changes did. To apply: slots with an `after`, entries, then slots without one."""

    entries: list[EntryChange] = field(default_factory=list)
    slots: list[SlotChange] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.entries or self.slots)


class Reason(StrEnum):
    """Why a policy does not do all that it says."""

    REFUSED = "Refused"
    NO_GATEWAY_OBJECT = "NoGatewayObject"
    NO_GATEWAY_NODE = "NoGatewayNode"
    EGRESS_IP_NOT_FOUND = "EgressIPNotFound"
    INTERFACE_NOT_FOUND = "InterfaceNotFound"
    NO_DEFAULT_ROUTE = "NoDefaultRoute"
    FAMILY_MISSING = "AddressFamilyMissing"
    INTERFACES_UNKNOWN = "InterfacesUnknown"
    TOO_MANY_ADDRESSES = "TooManyAddresses"
    CONFLICT = "Conflict"
    MAP_FULL = "MapFull"
    NOT_IN_CILIUM = "NotInCilium"
    NAME_TAKEN = "NameTaken"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a policy or gateway, in words for an Event or a condition's message.

    `subject` is its `Kind/name` for people, which two dialects may share; `ref` tells them apart. None: no object.
    """

    subject: str
    reason: Reason
    message: str
    ref: Ref | None = None


@dataclass(frozen=True, slots=True)
class LocalSlot:
    """A slot as one node's kernel holds it: sources and interface on the gateway itself, nothing elsewhere.

    `endpoint` 0.0.0.0 drops, unless `passes`. `gateway` says whether this node is the one that translates.
    """

    number: int
    endpoint: IPv4Address
    source_v4: IPv4Address
    source_v6: IPv6Address
    interface: str | None
    gateway: bool
    passes: bool = False
    spill_v4: tuple[IPv4Address, ...] = ()
    spill_v6: tuple[IPv6Address, ...] = ()


def localise(slot: Slot, node: str) -> LocalSlot:
    """The slot as node `node` holds it."""
    passes = slot.gateway is None and slot.fail_open
    endpoint = slot.gateway_ip or NO_GATEWAY
    if slot.gateway is None or slot.gateway != node:
        return LocalSlot(slot.number, endpoint, NO_SOURCE_V4, NO_SOURCE_V6, None, False, passes)
    return LocalSlot(
        slot.number,
        endpoint,
        slot.source_v4 or NO_SOURCE_V4,
        slot.source_v6 or NO_SOURCE_V6,
        slot.interface,
        True,
        False,
        slot.spill_v4,
        slot.spill_v6,
    )
