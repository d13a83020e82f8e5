"""A picture of the lab: nodes, what runs on them, the networks between, and the world outside.

Drawn from values, without any dependency and without a script; text and lines take the page's own colour, so that it
reads in a light and a dark notebook alike. Beside the picture stands the same as a table, and the picture's
description says it in a sentence.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from egresslab.lab.display import HTML, TEXT, Table, escape
from egresslab.lab.entries import IPNetwork
from egresslab.lab.nodes import Node, Pod

WIDTH = 800
NODE_X, NODE_WIDTH = 20, 350
BUS_X, BUS_GAP = 430, 95
OUTSIDE_X, OUTSIDE_WIDTH = 600, 185
HEAD, GAP, POD_HEIGHT, LINE = 48, 14, 24, 17
COLOURS = ("#3d84d6", "#c2701c", "#7d5bbe", "#2e9d5b")
"""One for each network; contrast of at least 3:1 on white and on JupyterLab's dark background (WCAG 2.2, 1.4.11)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Something outside the cluster: `network` is the CIDR it is on, or empty for the internet."""

    name: str
    address: str
    network: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """What to draw; shows as picture and table, prints as the table."""

    nodes: Sequence[Node]
    pods: Sequence[Pod]
    outside: Sequence[Place]

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

    def description(self) -> str:
        """One sentence for whoever does not see the picture."""
        networks = " and ".join(f"{net} ({name})" for name, net in self.networks) or "one network"
        pods = "; ".join(f"pod {pod.name} runs on {pod.node}" for pod in self.pods) or "no pods of this chapter yet"
        places = ", ".join(f"{place.name} at {place.address}" for place in self.outside)
        return f"{len(self.nodes)} nodes on {networks}; outside: {places or 'nothing'}; {pods}."

    def svg(self) -> str:
        """The picture."""
        parts: list[str] = []
        buses = {name: BUS_X + index * BUS_GAP for index, (name, _) in enumerate(self.networks)}
        top = HEAD
        for node in self.nodes:
            height = self._node(parts, node, top, buses)
            top += height + GAP
        bottom = max(top, HEAD + 150)
        self._outside(parts, buses, bottom)
        for index, (name, network) in enumerate(self.networks):
            parts.insert(0, _bus(buses[name], bottom, f"{name} · {network}", COLOURS[index % len(COLOURS)], index))
        return (
            f'<svg class="egresslab-topology" role="img" aria-label="{escape(self.description())}" '
            f'viewBox="0 0 {WIDTH} {bottom + 34}" width="100%" style="max-width:{WIDTH}px;color:inherit" '
            'font-family="system-ui, sans-serif" font-size="13" fill="currentColor">'
            f"<title>{escape(self.description())}</title>{''.join(parts)}</svg>"
        )

    def _node(self, parts: list[str], node: Node, top: int, buses: dict[str, int]) -> int:
        pods = self._pods_on(node)
        lines = max(1, len(buses))
        height = 26 + lines * LINE + len(pods) * POD_HEIGHT + (6 if pods else 0)
        parts.append(_box(NODE_X, top, NODE_WIDTH, height))
        role = " · control plane" if node.control_plane else ""
        parts.append(f'<text x="{NODE_X + 12}" y="{top + 19}" font-weight="600">{escape(node.name)}{role}</text>')
        for index, name in enumerate(buses):
            y = top + 36 + index * LINE
            address = self._address(node, name)
            colour = COLOURS[index % len(COLOURS)]
            if address != "–":
                parts.append(_text(NODE_X + NODE_WIDTH - 12, y, f"{name} {address}", anchor="end", size=12))
                parts.append(_line(NODE_X + NODE_WIDTH, y - 4, buses[name], y - 4, colour))
                parts.append(f'<circle cx="{buses[name]}" cy="{y - 4}" r="4" fill="{colour}"/>')
        for index, pod in enumerate(pods):
            y = top + 26 + lines * LINE + 4 + index * POD_HEIGHT
            shown = next((str(address) for address in pod.addresses if address.version == 4), "no address yet")
            parts.append(
                f'<rect x="{NODE_X + 12}" y="{y}" width="{NODE_WIDTH - 24}" height="{POD_HEIGHT - 4}" rx="9" '
                'fill="currentColor" fill-opacity="0.09"/>'
            )
            parts.append(_text(NODE_X + 24, y + 14, f"pod {pod.name}", size=12))
            parts.append(_text(NODE_X + NODE_WIDTH - 24, y + 14, shown, anchor="end", size=12))
        return height

    def _outside(self, parts: list[str], buses: dict[str, int], bottom: int) -> None:
        if not self.outside:
            return
        parts.append(_text(OUTSIDE_X, HEAD - 14, "outside the cluster", size=12, opacity=0.8))
        height = (bottom - HEAD - GAP * len(self.outside)) // len(self.outside)
        for index, place in enumerate(self.outside):
            y = HEAD + index * (height + GAP)
            box = min(height, 62)
            parts.append(_box(OUTSIDE_X, y, OUTSIDE_WIDTH, box))
            parts.append(f'<text x="{OUTSIDE_X + 12}" y="{y + 24}" font-weight="600">{escape(place.name)}</text>')
            parts.append(_text(OUTSIDE_X + 12, y + 44, place.address, size=12))
            for number, (name, network) in enumerate(self.networks):
                if place.network in ("", str(network)):
                    colour, line_y = COLOURS[number % len(COLOURS)], y + 20 + number * 14
                    parts.append(_line(buses[name], line_y, OUTSIDE_X, line_y, colour, dashed=not place.network))

    def _address(self, node: Node, interface: str) -> str:
        for address in node.interfaces.get(interface, ()):
            if address.version == 4:
                return str(address.ip)
        return "–"

    def _pods_on(self, node: Node) -> list[Pod]:
        return sorted((pod for pod in self.pods if pod.node == node.name), key=lambda pod: pod.name)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        table = self.table()
        words = f"<details><summary>the same as a table</summary>{table.to_html()}</details>"
        return {TEXT: str(table), HTML: f"<figure style='margin:0.5em 0'>{self.svg()}{words}</figure>"}


def network_of(address: str, networks: Sequence[tuple[str, IPNetwork]]) -> str:
    """The CIDR among these that holds the address, or nothing for an address on the internet."""
    parsed = ipaddress.ip_address(address)
    return next((str(network) for _, network in networks if parsed in network), "")


def _box(x: int, y: int, width: int, height: int) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="currentColor" fill-opacity="0.04" '
        'stroke="currentColor" stroke-opacity="0.55"/>'
    )


def _bus(x: int, bottom: int, label: str, colour: str, index: int) -> str:
    # Labels of neighbouring networks stand above and below, so that they cannot run into each other.
    y = bottom + 22 if index % 2 else HEAD - 14
    line = f'<line x1="{x}" y1="{HEAD - 6}" x2="{x}" y2="{bottom + 6}" stroke="{colour}" stroke-width="3"/>'
    return line + f'<text x="{x}" y="{y}" text-anchor="middle" font-size="12">{escape(label)}</text>'


def _line(x1: int, y1: int, x2: int, y2: int, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="1.5"{dash}/>'


def _text(x: int, y: int, text: str, *, anchor: str = "start", size: int = 13, opacity: float = 1.0) -> str:
    attributes = f'x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill-opacity="{opacity:g}"'
    return f"<text {attributes}>{escape(text)}</text>"
