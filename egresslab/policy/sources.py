"""Which address and interface packets leave with on a given node.

Two rules: Cilium's, where the families that a policy needs can fail together, and ours, where each family stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import NamedTuple

from egresslab.policy.entries import Reason
from egresslab.policy.inventory import Interface, Node
from egresslab.policy.model import Address, Families, Source, SourceKind

MOST_ADDRESSES = 8
"""Of one family, that a gateway uses: as many as a slot of the datapath has room for."""


class Resolved(NamedTuple):
    """Source addresses on one node; `reason` and `message` say what could not be had."""

    source_v4: IPv4Address | None = None
    source_v6: IPv6Address | None = None
    interface: str | None = None
    spill_v4: tuple[IPv4Address, ...] = ()
    spill_v6: tuple[IPv6Address, ...] = ()
    reason: Reason | None = None
    message: str = ""

    @property
    def usable(self) -> bool:
        """Whether anything can leave."""
        return self.source_v4 is not None or self.source_v6 is not None

    def of(self, version: int) -> tuple[Address | None, ...]:
        """The source of one family and those it spills over to."""
        return (self.source_v4, *self.spill_v4) if version == 4 else (self.source_v6, *self.spill_v6)


def resolve(source: Source, node: Node, families: Families | None) -> Resolved:
    """The source on `node`; `families` given means Cilium's rule for what those families need."""
    interfaces = interfaces_of(node)
    if families is not None:
        answer = _by_cilium(source, interfaces, families)
    else:
        answer = _each_family(source, interfaces)
    if answer.reason not in (None, Reason.TOO_MANY_ADDRESSES) and node.interfaces is None:
        return answer._replace(
            reason=Reason.INTERFACES_UNKNOWN,
            message=f"{answer.message}; the interfaces of node {node.name} are unknown (no annotation)",
        )
    if answer.reason is not None:
        return answer._replace(message=f"{answer.message} (node {node.name})")
    return answer


def interfaces_of(node: Node) -> tuple[Interface, ...]:
    """The node's interfaces; where nothing is known of them, one that carries its node addresses and default route."""
    if node.interfaces is not None:
        return node.interfaces
    addresses: list[IPv4Interface | IPv6Interface] = []
    if node.internal_v4 is not None:
        addresses.append(IPv4Interface(node.internal_v4))
    if node.internal_v6 is not None:
        addresses.append(IPv6Interface(node.internal_v6))
    return (Interface("", tuple(addresses), (), node.internal_v4 is not None, node.internal_v6 is not None),)


def _by_cilium(source: Source, interfaces: Sequence[Interface], need: Families) -> Resolved:
    if source.kind is SourceKind.INTERFACE:
        interface = _named(interfaces, source.interface or "")
        if interface is None:
            return Resolved(reason=Reason.INTERFACE_NOT_FOUND, message=f"no interface {source.interface}")
        return _primaries(interface, need, *_of_interface(source, interface))
    if source.kind is SourceKind.DEFAULT_ROUTE:
        return _default_route(interfaces, need)
    address = source.addresses[0]
    carrier = next((i for i in interfaces if i.carries(address)), None)
    if carrier is None:
        return Resolved(
            reason=Reason.EGRESS_IP_NOT_FOUND,
            message=f"egress IP {address} is on no interface{_why_not_assigned(source, address, interfaces)}",
        )
    # No interface in the answer: with an egress IP, Cilium leaves the way out to the routing table.
    first_v4, first_v6 = _of_interface(source, carrier)
    v4 = (address if isinstance(address, IPv4Address) else first_v4) if need.ipv4 else None
    v6 = (address if isinstance(address, IPv6Address) else first_v6) if need.ipv6 else None
    missing = [name for name, wanted, got in (("IPv4", need.ipv4, v4), ("IPv6", need.ipv6, v6)) if wanted and not got]
    if missing:
        message = f"interface {carrier.name}, which carries {address}, has no {missing[0]} address"
        return Resolved(v4, v6, reason=Reason.FAMILY_MISSING, message=message)
    return Resolved(v4, v6)


def _of_interface(source: Source, interface: Interface) -> tuple[IPv4Address | None, IPv6Address | None]:
    if not source.sorted_addresses:
        return interface.first_v4(), interface.first_v6()
    v4, v6 = interface.best(4), interface.best(6)
    return v4 if isinstance(v4, IPv4Address) else None, v6 if isinstance(v6, IPv6Address) else None


def _primaries(interface: Interface, need: Families, v4: IPv4Address | None, v6: IPv6Address | None) -> Resolved:
    for name, wanted, got in (("IPv4", need.ipv4, v4), ("IPv6", need.ipv6, v6)):
        if wanted and got is None:
            message = f"interface {interface.name} has no {name} address"
            return Resolved(interface=interface.name or None, reason=Reason.FAMILY_MISSING, message=message)
    return Resolved(v4 if need.ipv4 else None, v6 if need.ipv6 else None, interface.name or None)


def _default_route(interfaces: Sequence[Interface], need: Families) -> Resolved:
    chosen: Interface | None = None
    if need.ipv4:
        chosen = next((i for i in interfaces if i.default_route_v4), None)
        if chosen is None:
            return Resolved(reason=Reason.NO_DEFAULT_ROUTE, message="no interface has an IPv4 default route")
        if chosen.first_v4() is None:
            return _primaries(chosen, need, None, None)
    if need.ipv6:
        other = next((i for i in interfaces if i.default_route_v6), None)
        name = chosen.name or None if chosen else None
        if other is None:
            message = "no interface has an IPv6 default route"
            return Resolved(interface=name, reason=Reason.NO_DEFAULT_ROUTE, message=message)
        if chosen is not None and other is not chosen:
            message = "IPv6 default route interface doesn't match IPv4 default route interface"
            return Resolved(interface=name, reason=Reason.FAMILY_MISSING, message=message)
        chosen = other
    return _primaries(chosen, need, chosen.first_v4(), chosen.first_v6()) if chosen else Resolved()


def _each_family(source: Source, interfaces: Sequence[Interface]) -> Resolved:
    if source.kind is SourceKind.INTERFACE:
        interface = _named(interfaces, source.interface or "")
        if interface is None:
            return Resolved(reason=Reason.INTERFACE_NOT_FOUND, message=f"no interface {source.interface}")
        answer = Resolved(interface.first_v4(), interface.first_v6(), interface.name or None)
        if not answer.usable:
            return answer._replace(
                reason=Reason.FAMILY_MISSING, message=f"interface {interface.name} has no usable address"
            )
        return answer
    if source.kind is SourceKind.DEFAULT_ROUTE:
        v4 = next((i for i in interfaces if i.default_route_v4), None)
        v6 = next((i for i in interfaces if i.default_route_v6), None)
        names = {i.name for i in (v4, v6) if i is not None}
        if not names:
            return Resolved(reason=Reason.NO_DEFAULT_ROUTE, message="no interface has a default route")
        # Two ways out cannot stand in one slot: then the routing table decides, from the source address.
        only = next(iter(names)) or None if len(names) == 1 else None
        return Resolved(v4.first_v4() if v4 else None, v6.first_v6() if v6 else None, only)
    addresses: Sequence[Address] = source.addresses
    if source.kind is SourceKind.ADDRESS:
        addresses = [
            address
            for address in addresses
            if any(i.carries(address) for i in interfaces) or home(source, address, interfaces) is not None
        ]
        if not addresses:
            wanted = ", ".join(map(str, source.addresses))
            why = _why_not_assigned(source, source.addresses[0], interfaces)
            return Resolved(reason=Reason.EGRESS_IP_NOT_FOUND, message=f"none of {wanted} is on any interface{why}")
    ipv4 = tuple(address for address in addresses if isinstance(address, IPv4Address))
    ipv6 = tuple(address for address in addresses if isinstance(address, IPv6Address))
    found = Resolved(
        ipv4[0] if ipv4 else None,
        ipv6[0] if ipv6 else None,
        spill_v4=ipv4[1:MOST_ADDRESSES],
        spill_v6=ipv6[1:MOST_ADDRESSES],
    )
    unused = (*ipv4[MOST_ADDRESSES:], *ipv6[MOST_ADDRESSES:])
    if not unused:
        return found
    message = f"a gateway uses {MOST_ADDRESSES} addresses of a family, and not {', '.join(map(str, unused))}"
    return found._replace(reason=Reason.TOO_MANY_ADDRESSES, message=message)


def home(source: Source, address: Address, interfaces: Sequence[Interface]) -> Interface | None:
    """The interface that an address is to be put on, where the source says so: the one named, else the first whose
    network has it. None where it is not assigned or there is no such interface."""
    if not source.assign:
        return None
    if source.interface is not None:
        return _named(interfaces, source.interface)
    return next((interface for interface in interfaces if interface.neighbours(address)), None)


def without_link(source: Source, announce: Sequence[str], interfaces: Sequence[Interface]) -> str | None:
    """Why packets with this source cannot leave for want of a link, in words; None when they can.

    `announce` names the interfaces of virtual addresses, all of them when empty; one with a link is enough.
    """
    if source.kind is SourceKind.INTERFACE:
        concerned = [_named(interfaces, source.interface or "")]
    elif source.kind is SourceKind.DEFAULT_ROUTE:
        concerned = [i for i in interfaces if i.default_route_v4 or i.default_route_v6]
    elif source.kind is SourceKind.ADDRESS:
        carrying = [next((i for i in interfaces if i.carries(address)), None) for address in source.addresses]
        homes = [home(source, address, interfaces) for address in source.addresses]
        concerned = [*carrying, *homes]
    else:
        concerned = [_named(interfaces, name) for name in announce] if announce else [*interfaces]
    known = [interface for interface in concerned if interface is not None]
    if not known or any(interface.carrier for interface in known):
        return None
    names = ", ".join(sorted({interface.name for interface in known}))
    return f"has no link on {names}"


def way_out(source: Source, announce: Sequence[str], interfaces: Sequence[Interface]) -> str | None:
    """Name of the interface that packets with this source leave by; None where the routing table alone knows."""
    found: Iterator[Interface | None] = iter(())
    if source.kind is SourceKind.INTERFACE:
        found = iter([_named(interfaces, source.interface or "")])
    elif source.kind is SourceKind.VIRTUAL and announce:
        found = (_named(interfaces, name) for name in announce)
    elif source.kind is not SourceKind.DEFAULT_ROUTE:
        found = (i for a in source.addresses for i in interfaces if i.carries(a) or i.neighbours(a))
    return next((interface.name or None for interface in found if interface is not None), None)


def _why_not_assigned(source: Source, address: Address, interfaces: Sequence[Interface]) -> str:
    if not source.assign:
        return ""
    if home(source, address, interfaces) is not None:
        return " yet"
    where = f"there is no interface {source.interface}" if source.interface else "no interface has a network for it"
    return f" and cannot be assigned: {where}"


def _named(interfaces: Sequence[Interface], name: str) -> Interface | None:
    exact = next((i for i in interfaces if i.name == name), None)
    return exact or next((i for i in interfaces if name in i.altnames), None)
