"""How long decisions take as a cluster grows, measured here and now on made-up clusters; for the chapter about scale.

The engine is the one that agents run. Beside it stands the plain computation of everything anew, which is what a
controller without an engine does at each event.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from egresslab.api.resources import Object
from egresslab.errors import LabError
from egresslab.lab.display import Table
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Delete, Upsert
from egresslab.policy.inventory import Kind, Ref, Value
from egresslab.policy.objects import from_kubernetes
from egresslab.policy.reference import compute

PODS_OF_A_NODE = 100
PODS_OF_A_TEAM = 100
DESTINATIONS = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24")
EVENTS = 200
PODS = IPv4Network("10.0.0.0/8")


@dataclass(frozen=True, slots=True)
class Size:
    """What was measured at one size; times in milliseconds. `plain_ms` is the plain computation of everything, once."""

    pods: int
    nodes: int
    policies: int
    entries: int
    build_ms: float
    event_ms: float
    failover_ms: float
    plain_ms: float


class Growth(tuple[Size, ...]):
    """Sizes that show as a table and draw as a picture."""

    __slots__ = ()

    def table(self) -> Table:
        """The table."""
        header = ("pods", "nodes", "policies", "entries", "first build", "one pod", "gateway lost", "plain, each event")
        rows = tuple(
            (
                f"{size.pods:,}",
                f"{size.nodes:,}",
                f"{size.policies:,}",
                f"{size.entries:,}",
                f"{size.build_ms:,.0f} ms",
                f"{size.event_ms:.3f} ms",
                f"{size.failover_ms:.3f} ms",
                f"{size.plain_ms:,.0f} ms",
            )
            for size in self
        )
        return Table("Decisions, measured on this machine", header, rows)

    def picture(self) -> bytes:
        """An SVG: time for one event against the number of pods, with and without an engine, on logarithmic axes."""
        # Takes a second to import, and only a notebook that draws needs it.
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3.6), facecolor="white", layout="constrained")
        axes = figure.add_subplot(xscale="log", yscale="log", xlabel="pods", ylabel="milliseconds for one event")
        pods = [size.pods for size in self]
        axes.plot(pods, [size.plain_ms for size in self], "s-", color="#b3541e", label="everything anew")
        axes.plot(pods, [size.event_ms for size in self], "o-", color="#1f6feb", label="engine: one pod")
        axes.plot(pods, [size.failover_ms for size in self], "^-", color="#2e7d32", label="engine: a gateway lost")
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.legend(frameon=False)
        drawn = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(drawn)
        return drawn.getvalue()

    def __str__(self) -> str:
        return str(self.table())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The text form: IPython would otherwise print a tuple."""
        printer.text(str(self))

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        bundle = self.table()._repr_mimebundle_(**options)
        caption = f'<div role="img" aria-label="{bundle["text/plain"]}">{self.picture().decode()}</div>'
        return {**bundle, "text/html": bundle["text/html"] + caption}


def measure(sizes: Sequence[int]) -> Growth:
    """Time the engine and the plain way at each number of pods; `LabError` for a size below one team."""
    if not sizes or min(sizes) < PODS_OF_A_TEAM:
        raise LabError(f"a size is a number of pods, {PODS_OF_A_TEAM} or more", object="sizes", value=list(sizes))
    return Growth(_measure(size) for size in sizes)


def _measure(pods: int) -> Size:
    nodes, policies = max(4, pods // PODS_OF_A_NODE), pods // PODS_OF_A_TEAM
    values = [_value(obj) for obj in _cluster(pods, nodes, policies)]
    engine = Engine()
    build = _milliseconds(lambda: [engine.apply(Upsert(value)) for value in values])
    events: list[float] = []
    for number in range(pods, pods + EVENTS):
        fresh = _value(_pod(number, nodes, policies))
        events.append(_milliseconds(lambda fresh=fresh: engine.apply(Upsert(fresh))))
        engine.apply(Delete(Ref(Kind.POD, _uid(number))))
    gone = Delete(Ref(Kind.NODE, "node-0"))
    back = _value(_node(0, nodes))
    failovers: list[float] = []
    for _ in range(9):
        failovers.append(_milliseconds(lambda: engine.apply(gone)))
        engine.apply(Upsert(back))
    plain = _milliseconds(lambda: compute(values))
    entries = engine.count(4)
    return Size(pods, nodes, policies, entries, build, statistics.median(events), statistics.median(failovers), plain)


def _milliseconds(work: object) -> float:
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return (time.perf_counter() - start) * 1000


def _value(obj: Object) -> Value:
    value = from_kubernetes(obj)
    assert value is not None
    return value


def _cluster(pods: int, nodes: int, policies: int) -> Iterator[Object]:
    for team in range(policies):
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"team-{team}", "labels": {}}}
    yield from (_node(number, nodes) for number in range(nodes))
    yield from (_policy(team) for team in range(policies))
    yield from (_pod(number, nodes, policies) for number in range(pods))


def _node(number: int, nodes: int) -> Object:
    """The first two are the gateways."""
    labels = {"kubernetes.io/hostname": f"node-{number}", **({"egress": "true"} if number < 2 else {})}
    address = str(IPv4Address("172.16.0.1") + number)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}", "labels": labels},
        "spec": {},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def _policy(team: int) -> Object:
    pods = {"matchLabels": {"io.kubernetes.pod.namespace": f"team-{team}"}}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": f"team-{team}"},
        "spec": {
            "selectors": [{"podSelector": pods}],
            "destinationCIDRs": list(DESTINATIONS),
            "egressGateway": {"nodeSelector": {"matchLabels": {"egress": "true"}}},
        },
    }


def _pod(number: int, nodes: int, policies: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"pod-{number}",
            "namespace": f"team-{number % policies}",
            "uid": _uid(number),
            "labels": {"app": f"app-{number // 10}"},
        },
        "spec": {"nodeName": f"node-{number % nodes}"},
        "status": {"podIPs": [{"ip": str(PODS[number + 1])}]},
    }


def _uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"
