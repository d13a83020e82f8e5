"""A picture of the lab: nodes, what runs on them, the networks between, the world outside, and the ways of packets.

Beside the picture stands the same as a table, and the picture's description says it in a sentence.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from egresslab.lab.display import HTML, TEXT, Table, escape
from egresslab.lab.entries import IPNetwork
from egresslab.lab.nodes import Node, Pod
from egresslab.lab.views import shapes
from egresslab.lab.views.shapes import COLOURS
from egresslab.lab.views.ways import HEADER, Way

WIDTH = 800
NODE_X, NODE_WIDTH = 20, 330
BUS_X, BUS_GAP = 478, 82
OUTSIDE_X, OUTSIDE_WIDTH = 605, 185
LANE_X, LANE_GAP = 366, 9
HEAD, GAP, POD_HEIGHT, LINE = 48, 14, 24, 17
WAYS = 6
"""So many ways are drawn; the table has them all."""


@dataclass(frozen=True, slots=True)
class Place:
    """Something outside the cluster: `network` is the CIDR it is on, or empty for the internet."""

    name: str
    address: str
    network: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """What to draw; shows as picture and table, prints as the table. `ways` is None when nobody asked for them."""

    nodes: Sequence[Node]
    pods: Sequence[Pod]
    outside: Sequence[Place]
    ways: Sequence[Way] | None = None

    @property
    def networks(self) -> tuple[tuple[str, IPNetwork], ...]:
        """(interface, IPv4 network) of everything that nodes are on, in the order of interfaces."""
        found: dict[str, IPNetwork] = {}
        for node in self.nodes:
            for interface, addresses in node.interfaces.items():
                for address in addresses:
                    if address.version == 4 and address.network.prefixlen < 32:
                        found.setdefault(interface, address.network)
        return tuple(sorted(found.items()))

    def with_ways(self, ways: Sequence[Way]) -> Topology:
        """The same with ways drawn on it; destinations that were not drawn yet are drawn too."""
        known = {place.address for place in self.outside}
        far = {way.destination: way.name or way.destination for way in ways if way.destination not in known}
        places = [Place(name, address, network_of(address, self.networks)) for address, name in far.items()]
        return replace(self, outside=(*self.outside, *places[:2]), ways=tuple(ways))

    def table(self) -> Table:
        """The same in words."""
        names = [name for name, _ in self.networks]
        rows = [
            (
                node.name,
                "control plane" if node.control_plane else "worker",
                *(self._address(node, name) for name in names),
                ", ".join(pod.name for pod in self._pods_on(node)) or "–",
            )
            for node in self.nodes
        ]
        rows += [
            (
                place.name,
                "outside",
                *(place.address if place.network == str(net) else "–" for _, net in self.networks),
                "–",
            )
            if place.network
            else (f"{place.name} ({place.address})", "internet", *("–" for _ in names), "–")
            for place in self.outside
        ]
        return Table("The lab", ("name", "role", *(f"{n} ({net})" for n, net in self.networks), "pods"), tuple(rows))

    def ways_table(self) -> Table | None:
        """The ways in words, if they are drawn."""
        if self.ways is None:
            return None
        return Table("Ways of packets that agents saw", HEADER, tuple(way.row for way in self.ways))

    def description(self) -> str:
        """One sentence for whoever does not see the picture."""
        networks = " and ".join(f"{net} ({name})" for name, net in self.networks) or "one network"
        pods = "; ".join(f"pod {pod.name} runs on {pod.node}" for pod in self.pods) or "no pods of this chapter yet"
        places = ", ".join(f"{place.name} at {place.address}" for place in self.outside)
        ways = "".join(f"; {way.said}" for way in self.ways or ())
        return f"{len(self.nodes)} nodes on {networks}; outside: {places or 'nothing'}; {pods}{ways}."

    def svg(self) -> str:
        """The picture."""
        parts: list[str] = []
        buses = {name: BUS_X + index * BUS_GAP for index, (name, _) in enumerate(self.networks)}
        tops: dict[str, int] = {}
        top = HEAD
        for node in self.nodes:
            tops[node.name] = top
            top += self._node(parts, node, top, buses) + GAP
        bottom = max(top, HEAD + 76 * max(2, len(self.outside)))
        places = self._outside(parts, buses, bottom)
        for index, (name, network) in enumerate(self.networks):
            parts.insert(0, _bus(buses[name], bottom, f"{name} · {network}", COLOURS[index % len(COLOURS)], index))
        for index, way in enumerate((self.ways or ())[:WAYS]):
            parts.append(self._way(way, index, tops, buses, places))
        return shapes.picture("topology", self.description(), WIDTH, bottom + 34, "".join(parts))

    def _node(self, parts: list[str], node: Node, top: int, buses: dict[str, int]) -> int:
        pods = self._pods_on(node)
        lines = max(1, len(buses))
        height = 26 + lines * LINE + len(pods) * POD_HEIGHT + (6 if pods else 0)
        parts.append(shapes.box(NODE_X, top, NODE_WIDTH, height))
        role = " · control plane" if node.control_plane else ""
        parts.append(shapes.text(NODE_X + 12, top + 19, f"{node.name}{role}", bold=True))
        for index, name in enumerate(buses):
            y = top + 36 + index * LINE
            address = self._address(node, name)
            colour = COLOURS[index % len(COLOURS)]
            if address != "–":
                parts.append(shapes.text(NODE_X + NODE_WIDTH - 12, y, f"{name} {address}", anchor="end", size=12))
                parts.append(shapes.line(NODE_X + NODE_WIDTH, y - 4, buses[name], y - 4, colour))
                parts.append(f'<circle cx="{buses[name]}" cy="{y - 4}" r="4" fill="{colour}"/>')
        for index, pod in enumerate(pods):
            y = self._pod_top(top, index)
            shown = next((str(address) for address in pod.addresses if address.version == 4), "no address yet")
            parts.append(shapes.pill(NODE_X + 12, y, NODE_WIDTH - 24, POD_HEIGHT - 4))
            parts.append(shapes.text(NODE_X + 24, y + 14, f"pod {pod.name}", size=12))
            parts.append(shapes.text(NODE_X + NODE_WIDTH - 24, y + 14, shown, anchor="end", size=12))
        return height

    def _pod_top(self, top: int, index: int) -> int:
        return top + 26 + max(1, len(self.networks)) * LINE + 4 + index * POD_HEIGHT

    def _outside(self, parts: list[str], buses: dict[str, int], bottom: int) -> dict[str, int]:
        """Draw what is outside; returns the top of each place by its address."""
        if not self.outside:
            return {}
        parts.append(shapes.text(OUTSIDE_X, HEAD - 14, "outside the cluster", size=12, opacity=0.8))
        height = (bottom - HEAD - GAP * len(self.outside)) // len(self.outside)
        tops: dict[str, int] = {}
        for index, place in enumerate(self.outside):
            y = tops[place.address] = HEAD + index * (height + GAP)
            seen = dict.fromkeys(way.egress for way in self.ways or () if way.destination == place.address)
            sees = ", ".join(address for address in seen if address)
            parts.append(shapes.box(OUTSIDE_X, y, OUTSIDE_WIDTH, min(height, 62)))
            parts.append(shapes.text(OUTSIDE_X + 12, y + 20, place.name, bold=True))
            parts.append(shapes.text(OUTSIDE_X + 12, y + 37, place.address, size=12))
            if sees:
                parts.append(shapes.text(OUTSIDE_X + 12, y + 54, f"sees {sees}", size=12))
            for number, (name, network) in enumerate(self.networks):
                if place.network in ("", str(network)):
                    colour, line_y = COLOURS[number % len(COLOURS)], y + 20 + number * 14
                    dashed = not place.network
                    parts.append(shapes.line(buses[name], line_y, OUTSIDE_X, line_y, colour, dashed=dashed))
        return tops

    def _way(self, way: Way, index: int, tops: dict[str, int], buses: dict[str, int], places: dict[str, int]) -> str:
        """From the pod along a lane of its own to the gateway's line, along the network, to the place outside."""
        pod = next((pod for pod in self.pods if (pod.name, pod.namespace) == (way.pod, way.namespace)), None)
        if pod is None or pod.node not in tops or not buses:
            return ""
        node = next(node for node in self.nodes if node.name == pod.node)
        start = NODE_X + NODE_WIDTH - 12, self._pod_top(tops[pod.node], self._pods_on(node).index(pod)) + 10
        lane = LANE_X + index * LANE_GAP
        if way.dropped:
            end = (lane + 14, start[1])
            label = shapes.text(lane + 26, start[1] + 4, way.reason or "dropped", size=11)
            return shapes.route([start, end], shapes.BAD, way.said, arrow=False) + label
        gateway = way.gateway if way.gateway in tops else pod.node
        place = places.get(way.destination)
        if place is None:
            return ""
        interface = self._carrier(gateway, way.egress)
        number = list(buses).index(interface)
        out = tops[gateway] + 32 + number * LINE + 3 * (index % 3)
        bus, there = buses[interface] + 3 + 3 * index, place + 24 + number * 14 + 7 * (index % 3)
        points = [start, (lane, start[1]), (lane, out), (bus, out), (bus, there), (OUTSIDE_X - 2, there)]
        return shapes.route(points, shapes.GOOD, way.said, dashed=True)

    def _carrier(self, node: str, egress: str) -> str:
        """The interface of a node that carries an address; the first one if none does."""
        names = [name for name, _ in self.networks]
        for interface, addresses in next(known for known in self.nodes if known.name == node).interfaces.items():
            if interface in names and any(str(address.ip) == egress for address in addresses):
                return interface
        inside = {name for name, network in self.networks if egress and ipaddress.ip_address(egress) in network}
        return next((name for name in names if name in inside), names[0])

    def _address(self, node: Node, interface: str) -> str:
        for address in node.interfaces.get(interface, ()):
            if address.version == 4:
                return str(address.ip)
        return "–"

    def _pods_on(self, node: Node) -> list[Pod]:
        return sorted((pod for pod in self.pods if pod.node == node.name), key=lambda pod: pod.name)

    def __str__(self) -> str:
        ways = self.ways_table()
        return f"{self.table()}\n\n{ways}" if ways is not None else str(self.table())

    def to_html(self) -> str:
        """Picture and tables."""
        ways = self.ways_table()
        return shapes.figure(self.svg(), self.table().to_html()) + (ways.to_html() if ways is not None else "")

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {TEXT: str(self), HTML: self.to_html()}


def network_of(address: str, networks: Sequence[tuple[str, IPNetwork]]) -> str:
    """The CIDR among these that holds the address, or nothing for an address on the internet."""
    parsed = ipaddress.ip_address(address)
    return next((str(network) for _, network in networks if parsed in network), "")


def _bus(x: int, bottom: int, label: str, colour: str, index: int) -> str:
    # Labels of neighbouring networks stand above and below, so that they cannot run into each other.
    y = bottom + 22 if index % 2 else HEAD - 14
    line = f'<line x1="{x}" y1="{HEAD - 6}" x2="{x}" y2="{bottom + 6}" stroke="{colour}" stroke-width="3"/>'
    return line + f'<text x="{x}" y="{y}" text-anchor="middle" font-size="12">{escape(label)}</text>'
