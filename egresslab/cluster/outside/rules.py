"""The firewall's rules: from the text of a ConfigMap to a whole nftables ruleset. Pure.

allow    sources that may come in, one address or CIDR a line; without this key the firewall is off
servers  whom it protects, one server name or address a line; without it all of them
action   reject (a TCP reset or an ICMP error, the default: nobody waits) or drop
nat      what a cloud's NAT makes of sources, `CIDR ADDRESS` a line, before the firewall looks
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network

from egresslab.cluster.outside.config import Server
from egresslab.errors import ClusterError

TABLE = "outside_firewall"
LOG_GROUP = 60
KEYS = frozenset({"allow", "servers", "action", "nat"})
OBJECT = "ConfigMap outside/firewall"

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Action(StrEnum):
    """What happens to a packet from a source that is not on the list."""

    REJECT = "reject"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Translation:
    """Packets from `source` are seen as coming from `address`."""

    source: Network
    address: Address


@dataclass(frozen=True, slots=True)
class Rules:
    """What the firewall does; `allow` is None when it lets everybody in."""

    allow: tuple[Network, ...] | None = None
    servers: tuple[Address, ...] = ()
    action: Action = Action.REJECT
    nat: tuple[Translation, ...] = ()

    def summary(self) -> str:
        """One line for the log."""
        nat = f", nat {len(self.nat)} ranges" if self.nat else ""
        if self.allow is None:
            return f"firewall off{nat}"
        allowed = ", ".join(str(network) for network in self.allow) or "nobody"
        return f"firewall on: allow {allowed}; {len(self.servers)} addresses; {self.action}{nat}"


def _lines(data: Mapping[str, str], key: str) -> Iterator[tuple[str, str]]:
    """(field, text) of every line that says something."""
    for number, line in enumerate(data.get(key, "").splitlines(), 1):
        for word in line.split("#", 1)[0].split(",") if key != "nat" else [line.split("#", 1)[0]]:
            if word.strip():
                yield f"data.{key}, line {number}", word.strip()


def _network(text: str, field: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ClusterError(
            f"is no address or CIDR: {error}",
            object=OBJECT,
            field=field,
            value=text,
            fix="write 192.0.2.7 or 192.0.2.0/24",
        ) from error


def parse_rules(data: Mapping[str, str], servers: Iterable[Server]) -> Rules:
    """Rules from a ConfigMap's data; raises `ClusterError` naming key, line and value of the first mistake."""
    known = tuple(servers)
    for key in data:
        if key not in KEYS:
            raise ClusterError("is unknown", object=OBJECT, field=f"data.{key}", fix=f"use {', '.join(sorted(KEYS))}")
    action = data.get("action", "reject").strip()
    if action not in tuple(Action):
        raise ClusterError("is unknown", object=OBJECT, field="data.action", value=action, fix="write reject or drop")
    allow = tuple(_network(text, field) for field, text in _lines(data, "allow")) if "allow" in data else None
    protected: list[Address] = []
    for field, text in _lines(data, "servers"):
        found = [a for s in known if text in (s.name, *s.names, *(str(a) for a in s.addresses)) for a in s.addresses]
        if not found:
            names = ", ".join(server.name for server in known)
            raise ClusterError("names no server", object=OBJECT, field=field, value=text, fix=f"name one of: {names}")
        protected += [ip_address(text)] if text in (str(address) for address in found) else found
    if "servers" not in data:
        protected = [address for server in known for address in server.addresses]
    return Rules(allow, tuple(dict.fromkeys(protected)), Action(action), tuple(_translations(data)))


def _translations(data: Mapping[str, str]) -> Iterator[Translation]:
    for field, text in _lines(data, "nat"):
        words = text.split()
        if len(words) != 2:
            raise ClusterError("is not `CIDR ADDRESS`", object=OBJECT, field=field, value=text)
        source, address = _network(words[0], field), _network(words[1], field)
        if source.version != address.version or address.prefixlen != address.max_prefixlen:
            raise ClusterError(
                "needs one address of the same family as the CIDR", object=OBJECT, field=field, value=text
            )
        yield Translation(source, address.network_address)


def ruleset(rules: Rules) -> str:
    """Input for `nft -f -`: replaces the whole table in one transaction (nft(8), "delete table")."""
    body = "".join(_chains(rules))
    return f"table inet {TABLE}\ndelete table inet {TABLE}\n" + (f"table inet {TABLE} {{\n{body}}}\n" if body else "")


def _chains(rules: Rules) -> Iterator[str]:
    if rules.nat:
        yield " chain source_nat {\n  type nat hook input priority 100; policy accept;\n"
        for rule in rules.nat:
            family = "ip" if rule.source.version == 4 else "ip6"
            yield f"  {family} saddr {rule.source} snat {family} to {rule.address}\n"
        yield " }\n"
    if rules.allow is None:
        return
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        yield _set(f"servers{version}", kind, "", (str(a) for a in rules.servers if a.version == version))
        yield _set(f"allowed{version}", kind, "flags interval; ", _collapsed(rules.allow, version))
    # After source_nat, so that the list is compared with what a cloud's NAT lets the world see.
    yield " chain guard {\n  type filter hook input priority 150; policy accept;\n"
    yield "  ip daddr @servers4 goto decide\n  ip6 daddr @servers6 goto decide\n }\n"
    yield " chain decide {\n  ct state established,related accept\n"
    # Neighbour discovery is how an IPv6 address is found at all (RFC 4890 section 4.4.1).
    yield "  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
    yield f'  ip saddr @allowed4 log prefix "accepted" group {LOG_GROUP} accept\n'
    yield f'  ip6 saddr @allowed6 log prefix "accepted" group {LOG_GROUP} accept\n'
    yield f'  log prefix "refused" group {LOG_GROUP}\n'
    if rules.action is Action.REJECT:
        yield "  meta l4proto tcp reject with tcp reset\n  reject with icmpx type admin-prohibited\n }\n"
    else:
        yield "  drop\n }\n"


def _collapsed(networks: Iterable[Network], version: int) -> Iterator[str]:
    """Networks of one family without overlaps, which an interval set does not take."""
    if version == 4:
        yield from map(str, collapse_addresses(n for n in networks if isinstance(n, IPv4Network)))
    else:
        yield from map(str, collapse_addresses(n for n in networks if isinstance(n, IPv6Network)))


def _set(name: str, kind: str, flags: str, elements: Iterable[str]) -> str:
    listed = ", ".join(elements)
    content = f" elements = {{ {listed} }};" if listed else ""
    return f" set {name} {{ type {kind}; {flags}{content} }}\n"
