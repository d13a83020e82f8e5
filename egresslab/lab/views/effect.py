"""What the policies in the kernel do with one pod's packets: destination by destination, through whom, and as whom.

Worked out from the rows of the pod's own node and of the gateways, never from what policies say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from egresslab.lab.display import HTML, TEXT, Table
from egresslab.lab.entries import Entry, Gateway, IPNetwork
from egresslab.lab.nodes import Node, Pod
from egresslab.lab.views import shapes

WIDTH, ROW, TOP = 800, 46, 34
POD_X, POD_WIDTH = 20, 170
GATE_X, GATE_WIDTH = 290, 190
FAR_X, FAR_WIDTH = 600, 185
ELSE = "anything else"


@dataclass(frozen=True, slots=True)
class Path:
    """Where packets to a destination go; `egress` is empty when they do not get out."""

    destination: str
    through: str
    egress: str
    why: str

    @property
    def said(self) -> str:
        """In words."""
        if not self.egress:
            return f"{self.destination}: dropped, {self.why}"
        return f"{self.destination}: through {self.through} as {self.egress} ({self.why})"


@dataclass(frozen=True, slots=True)
class Effect:
    """All ways out of one pod, the most specific destination first; shows as picture and table."""

    pod: Pod
    paths: Sequence[Path]

    def table(self) -> Table:
        """As a table."""
        rows = tuple(
            (path.destination, path.through or "–", path.egress or "✘ dropped", path.why) for path in self.paths
        )
        caption = f"What becomes of packets of {self.pod.name} on {self.pod.node}"
        return Table(caption, ("destination", "through", "leaves as", "why"), rows)

    def description(self) -> str:
        """As a sentence."""
        return f"Packets of {self.pod.name} on {self.pod.node}: " + "; ".join(path.said for path in self.paths) + "."

    def svg(self) -> str:
        """The picture: the pod, the node that packets leave from, the destination."""
        height = TOP + ROW * len(self.paths) + 6
        middle = (TOP + height) // 2
        parts = [
            shapes.text(POD_X, TOP - 12, "pod", size=12, opacity=0.8),
            shapes.text(GATE_X, TOP - 12, "leaves from", size=12, opacity=0.8),
            shapes.text(FAR_X, TOP - 12, "destination", size=12, opacity=0.8),
            shapes.box(POD_X, middle - 28, POD_WIDTH, 50),
            shapes.text(POD_X + 12, middle - 8, self.pod.name, bold=True),
            shapes.text(POD_X + 12, middle + 10, f"on {self.pod.node}", size=12),
        ]
        for index, path in enumerate(self.paths):
            y = TOP + index * ROW
            wire = y + 19
            turn = POD_X + POD_WIDTH + 40
            start = [(POD_X + POD_WIDTH, middle - 3), (turn, middle - 3), (turn, wire)]
            parts.append(shapes.box(FAR_X, y + 2, FAR_WIDTH, 34))
            parts.append(shapes.text(FAR_X + 12, y + 24, path.destination, size=12))
            if not path.egress:
                parts.append(shapes.route([*start, (GATE_X - 12, wire)], shapes.BAD, path.said, arrow=False))
                parts.append(shapes.text(GATE_X + 6, wire + 4, f"dropped: {path.why}", size=12))
                continue
            parts.append(shapes.route([*start, (GATE_X - 2, wire)], shapes.GOOD, path.said))
            parts.append(shapes.box(GATE_X, y + 2, GATE_WIDTH, 34))
            parts.append(shapes.text(GATE_X + 12, y + 24, path.through, size=12, bold=True))
            parts.append(shapes.route([(GATE_X + GATE_WIDTH, wire), (FAR_X - 2, wire)], shapes.GOOD, path.said))
            middle_x = (GATE_X + GATE_WIDTH + FAR_X) // 2
            parts.append(shapes.text(middle_x, wire - 6, path.egress, anchor="middle", size=11))
        return shapes.picture("effect", self.description(), WIDTH, height, "".join(parts))

    def __str__(self) -> str:
        return str(self.table())

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {TEXT: str(self), HTML: shapes.figure(self.svg(), self.table().to_html())}


def effect(pod: Pod, nodes: Iterable[Node], rows: Iterable[Entry]) -> Effect:
    """The effect on a pod of the rows of all nodes."""
    known = {node.name: node for node in nodes}
    own = known[pod.node]
    rows = [row for row in rows if row.source in pod.addresses]
    paths = [_path(row, rows, known, own) for row in rows if row.node == pod.node]
    paths.sort(key=lambda item: (item[0].version, -item[0].prefixlen, int(item[0].network_address)))
    found = [path for _, path in paths]
    covered = {row.destination.version for row in rows if row.destination.prefixlen == 0}
    for family in sorted({address.version for address in pod.addresses} - covered):
        source = next((str(address) for address in own.addresses if address.version == family), "")
        if source:
            found.append(Path(f"{ELSE}, IPv{family}", own.name, source, "no policy: the pod's own node"))
    return Effect(pod, tuple(found))


def _path(row: Entry, rows: Sequence[Entry], known: dict[str, Node], own: Node) -> tuple[IPNetwork, Path]:
    where = str(row.destination)
    if row.gateway is Gateway.EXCLUDED:
        source = next((str(a) for a in own.addresses if a.version == row.destination.version), "")
        return row.destination, Path(where, own.name, source, "excluded by the policy")
    gateway = next((node for node in known.values() if row.gateway in node.addresses), None)
    if gateway is None:
        return row.destination, Path(where, "", "", f"no gateway ({row.gateway})")
    there = next((r for r in rows if r.node == gateway.name and r.destination == row.destination), None)
    if there is None or int(there.egress) == 0:
        return row.destination, Path(where, gateway.name, "", f"{gateway.name} has no egress IP")
    return row.destination, Path(where, gateway.name, str(there.egress), "egress policy")
