"""Checks of the egress map: what each node's kernel holds for a pod."""

from __future__ import annotations

from collections.abc import Mapping

from egresslab.lab.checks.addresses import missing, wanted
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome
from egresslab.lab.entries import AGENTS, Entry, Gateway, IPAddress, IPNetwork
from egresslab.lab.intent import Intent

Row = tuple[IPAddress, IPNetwork]
Value = tuple[IPAddress | None, IPAddress | Gateway]
"""Egress IP and gateway; the egress IP of an excluded row is nobody's business, so None."""


def entries_on_every_node(bench: Bench, pod: str, policy: str) -> Finding:
    """Every node has the pod's rows, and only the gateway's rows name the egress IP."""
    wish = wanted(bench, policy)
    if wish is None:
        return missing(policy)
    addresses = bench.pod(pod).addresses
    found = [entry for entry in bench.map_entries() if entry.source in addresses]
    wrong: list[str] = []
    for node in bench.nodes:
        here = {(entry.source, entry.destination): _value(entry) for entry in found if entry.node == node.name}
        wrong += _differences(node.name, rows_of(wish, addresses, on_gateway=node.name == wish.gateway.name), here)
    egress = " and ".join(str(address) for address in wish.sources.values())
    return Finding(
        Outcome.FAIL if wrong else Outcome.PASS,
        f"on each of {len(bench.nodes)} nodes the rows of {pod}, pointing at {wish.gateway.address(4)}; "
        f"egress IP {egress} on {wish.gateway.name}, zeros elsewhere",
        "; ".join(wrong[:3]) if wrong else f"{len(found)} rows, as expected",
        AGENTS[0].typed,
    )


def no_entries(bench: Bench, pod: str) -> Finding:
    """No node has a row for the pod."""
    addresses = bench.pod(pod).addresses
    left = [entry for entry in bench.map_entries() if entry.source in addresses]
    return Finding(
        Outcome.FAIL if left else Outcome.PASS,
        f"no row for {pod} on any node",
        f"{len(left)} rows left, one on {left[0].node} for {left[0].destination}" if left else "none",
        AGENTS[0].typed,
    )


def rows_of(wish: Intent, addresses: tuple[IPAddress, ...], *, on_gateway: bool) -> dict[Row, Value]:
    """The rows a node must hold for a pod with these addresses."""
    rows: dict[Row, Value] = {}
    gateway = wish.gateway.address(4)
    for address in addresses:
        zero = type(address)(0)
        for cidr in wish.destinations:
            if cidr.version == address.version:
                rows[address, cidr] = (wish.source(cidr.version) if on_gateway else zero, gateway)
        for cidr in wish.excluded:
            if cidr.version == address.version:
                rows[address, cidr] = (None, Gateway.EXCLUDED)
    return rows


def _value(entry: Entry) -> Value:
    return (None if entry.gateway is Gateway.EXCLUDED else entry.egress, entry.gateway)


def _differences(node: str, expected: Mapping[Row, Value], found: Mapping[Row, Value]) -> list[str]:
    wrong = [f"{node} has no row for {cidr} (pod {source})" for source, cidr in expected if (source, cidr) not in found]
    for key, value in found.items():
        if key not in expected:
            wrong.append(f"{node} has a row for {key[1]} that no policy asks for")
        elif value != expected[key]:
            wrong.append(f"{node} says {_show(value)} for {key[1]} instead of {_show(expected[key])}")
    return wrong


def _show(value: Value) -> str:
    return str(value[1]) if value[0] is None else f"{value[0]} via {value[1]}"


CHECKS = (
    Check(
        "entries-on-every-node",
        "every node knows the way to the gateway",
        entries_on_every_node,
        (
            "List the egress map on more than one node, not just on the one where the pod runs.",
            "The gateway column is the same everywhere; the egress IP is shown on the gateway node alone.",
            "A missing row: the selector does not match the pod. `Not Found`: no node has the label of nodeSelector.",
        ),
    ),
    Check(
        "no-entries",
        "no node keeps an entry for the pod",
        no_entries,
        (
            "List the egress map on every node.",
            "Rows that are left belong to a policy that still exists and still selects the pod.",
            "`kubectl get ciliumegressgatewaypolicies`, then `kubectl delete ciliumegressgatewaypolicy NAME`.",
        ),
    ),
)
