"""Which flows somebody wants to see: the conditions of `hubble observe`, with its rules.

Values of one condition are alternatives, conditions add up. A filter travels to the agents as the command line that a
person would have typed, so there is one syntax.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network

from egresslab.errors import ClusterError
from egresslab.flows.flow import Flow, IPAddress, Side

IPNetwork = IPv4Network | IPv6Network
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class Filter:
    """Conditions as they are typed. Nothing given: every flow.

    `pods` and `namespaces`: `[NAMESPACE/]PREFIX` of the sending pod's name; without a namespace, one of `namespaces`,
    or `default` if none is given; `NAMESPACE/` means all of it. `nodes`, `gateways`: names with `*`. `fqdns`: a name of
    the destination, with `*` for any characters of a name. `to_ips`, `snat_ips`: addresses or networks; `verdicts`,
    `protocols`, `reasons` in any case; `since_ns`, `until_ns`: nanoseconds since 1970.
    """

    pods: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    fqdns: tuple[str, ...] = ()
    to_ips: tuple[str, ...] = ()
    to_ports: tuple[int, ...] = ()
    snat_ips: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    since_ns: int | None = None
    until_ns: int | None = None

    def __post_init__(self) -> None:
        """Raises `ClusterError` for an address that is none."""
        _ = self._to_networks, self._snat_networks

    def matches(self, flow: Flow) -> bool:
        """Whether the flow is wanted; its names must have been looked up if `needs_names`."""
        return self.matches_but_names(flow) and self.matches_names(flow)

    @property
    def needs_names(self) -> bool:
        """Whether the destination's names matter."""
        return bool(self.fqdns)

    def matches_names(self, flow: Flow) -> bool:
        """The condition on the destination's names alone."""
        return not self.fqdns or any(pattern.fullmatch(name) for pattern in self._fqdns for name in flow.names)

    def matches_but_names(self, flow: Flow) -> bool:
        """All other conditions: those that cost nothing to ask."""
        return (
            (self.since_ns is None or flow.time_ns >= self.since_ns)
            and (self.until_ns is None or flow.time_ns < self.until_ns)
            and _one_of(flow.verdict, self.verdicts)
            and _one_of(flow.protocol, self.protocols)
            and _one_of(flow.reason, self.reasons)
            and self._matches_pod(flow)
            and _like(flow.node, self.nodes)
            and _like(flow.gateway, self.gateways)
            and (not self.to_ports or flow.destination.port in self.to_ports)
            and (not self.to_ips or _inside(flow.destination, self._to_networks))
            and (not self.snat_ips or _inside(flow.egress, self._snat_networks))
        )

    def wants_node(self, node: str) -> bool:
        """Whether anything that this node tells may be wanted."""
        return _like(node, self.nodes)

    def _matches_pod(self, flow: Flow) -> bool:
        if self.namespaces and flow.namespace not in self.namespaces:
            return False
        return not self.pods or any(
            flow.namespace in namespaces and bool(flow.pod) and flow.pod.startswith(prefix)
            for namespaces, prefix in self._pods
        )

    @cached_property
    def _pods(self) -> list[tuple[tuple[str, ...], str]]:
        found = []
        for text in self.pods:
            namespace, slash, prefix = text.rpartition("/")
            found.append(((namespace,) if slash else self.namespaces or (DEFAULT_NAMESPACE,), prefix))
        return found

    @cached_property
    def _fqdns(self) -> list[re.Pattern[str]]:
        parts = (text.lower().rstrip(".").split("*") for text in self.fqdns)
        return [re.compile("[-_.0-9a-z]*".join(map(re.escape, part))) for part in parts]

    @cached_property
    def _to_networks(self) -> list[IPNetwork]:
        return [_network(text, "--to-ip") for text in self.to_ips]

    @cached_property
    def _snat_networks(self) -> list[IPNetwork]:
        return [_network(text, "--snat-ip") for text in self.snat_ips]


OPTIONS = {
    "pods": "--pod",
    "namespaces": "--namespace",
    "nodes": "--node",
    "gateways": "--gateway",
    "fqdns": "--to-fqdn",
    "to_ips": "--to-ip",
    "to_ports": "--to-port",
    "snat_ips": "--snat-ip",
    "protocols": "--protocol",
    "verdicts": "--verdict",
    "reasons": "--drop-reason",
    "since_ns": "--since",
    "until_ns": "--until",
}
"""How each condition is typed."""


def arguments(wanted: Filter) -> Iterator[str]:
    """The filter as command-line arguments; times as nanoseconds since 1970, which `times.moment` reads too."""
    for field in fields(wanted):
        value = getattr(wanted, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None:
                yield f"{OPTIONS[field.name]}={each}"


def _one_of(value: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or value.upper() in {each.upper() for each in wanted}


def _like(value: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)


def _inside(side: Side | None, networks: list[IPNetwork]) -> bool:
    return side is not None and any(_contains(network, side.ip) for network in networks)


def _contains(network: IPNetwork, address: IPAddress) -> bool:
    return network.version == address.version and address in network


def _network(text: str, option: str) -> IPNetwork:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise ClusterError("neither an address nor a network", object=option, value=text) from error
