"""What a node's kernel holds about egress, as the agent on that node prints it.

The only way there is `kubectl exec` into the agent: the rows are those of `cilium-dbg bpf egress list`, in Cilium's
own JSON form.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from egresslab.api.resources import DAEMONSETS, PODS
from egresslab.errors import LabError
from egresslab.lab.client import Client
from egresslab.lab.display import Table
from egresslab.lab.views.changes import Changes, compare

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

LIST_TIMEOUT_S = 30.0
COLUMNS = ("Source IP", "Destination CIDR", "Egress IP", "Gateway IP")


class Gateway(StrEnum):
    """What stands in the gateway column when it is no address."""

    NOT_FOUND = "Not Found"
    EXCLUDED = "Excluded CIDR"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row on one node: traffic from `source` to `destination` goes to `gateway` and leaves as `egress`.

    `egress` is all zeros on every node but the gateway.
    """

    node: str
    source: IPAddress
    destination: IPNetwork
    egress: IPAddress
    gateway: IPAddress | Gateway


@dataclass(frozen=True, slots=True)
class Agent:
    """Where a kind of agent runs, and what lists its egress map."""

    namespace: str
    daemonset: str
    command: tuple[str, ...]

    @property
    def typed(self) -> str:
        """The command as a person would type it, for any one node."""
        return f"kubectl -n {self.namespace} exec ds/{self.daemonset} -- {' '.join(self.command)}"


AGENTS = (
    Agent("kube-system", "egresslab-agent", ("egresslab-dbg", "bpf", "egress", "list")),
    Agent("kube-system", "cilium", ("cilium-dbg", "bpf", "egress", "list")),
)
"""Known agents; the first that the cluster runs is asked."""


def parse(node: str, text: str) -> list[Entry]:
    """Rows from the JSON that `bpf egress list -o json` prints; `LabError` if it is something else."""
    try:
        return [_entry(node, row) for row in json.loads(text or "[]") or []]
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(
            f"not a listing of the egress map: {error!r}", object=f"agent on {node}", value=text[:200]
        ) from error


def _entry(node: str, row: dict[str, str]) -> Entry:
    gateway = row["GatewayIP"]
    return Entry(
        node,
        ipaddress.ip_address(row["SourceIP"]),
        ipaddress.ip_network(row["DestCIDR"], strict=False),
        ipaddress.ip_address(row["EgressIP"]),
        Gateway(gateway) if gateway in tuple(Gateway) else ipaddress.ip_address(gateway),
    )


def listing(client: Client, node: str) -> list[Entry]:
    """The egress map of one node, in a stable order.

    Raises `LabError` when no agent runs there or it cannot list.
    """
    return listings(client, [node])


def listings(client: Client, nodes: Sequence[str]) -> list[Entry]:
    """The egress maps of several nodes, one after the other; all are asked at the same time. Errors as for one."""
    asked = []
    for node in nodes:
        agent, pod = _agent_pod(client, node)
        asked.append((node, agent, pod, client.begin(agent.namespace, pod, [*agent.command, "-o", "json"])))
    found: list[Entry] = []
    for node, agent, pod, running in asked:
        ended = running.result(LIST_TIMEOUT_S * client.patience)
        if ended.exit_code:
            raise LabError(
                f"listing failed with exit code {ended.exit_code}: {(ended.stderr or ended.stdout).strip()}",
                object=f"agent {pod} on {node}",
                fix=f"kubectl -n {agent.namespace} logs {pod}",
            )
        found += sorted(parse(node, ended.stdout), key=_order)
    return found


def _order(entry: Entry) -> tuple[int, int, int, int]:
    return (
        entry.source.version,
        int(entry.source),
        int(entry.destination.network_address),
        entry.destination.prefixlen,
    )


def _agent_pod(client: Client, node: str) -> tuple[Agent, str]:
    for agent in AGENTS:
        if client.find(DAEMONSETS, agent.daemonset, agent.namespace) is None:
            continue
        for pod in client.list(PODS, agent.namespace, fieldSelector=f"spec.nodeName={node}"):
            owners = pod["metadata"].get("ownerReferences") or []
            if any(owner["kind"] == "DaemonSet" and owner["name"] == agent.daemonset for owner in owners):
                return agent, pod["metadata"]["name"]
    raise LabError("no egress agent runs there", object=node, fix="kubectl -n kube-system get pods -o wide")


class Entries(tuple[Entry, ...]):
    """Entries that show as a table: Cilium's four columns, with the node in front."""

    __slots__ = ()

    def table(self) -> Table:
        """The table."""
        rows = tuple((row.node, *map(str, (row.source, row.destination, row.egress, row.gateway))) for row in self)
        return Table("Egress entries in the kernel", ("Node", *COLUMNS), rows)

    def since(self, before: Entries) -> Changes:
        """What changed since an earlier look: rows that came, went, or say something else."""
        return compare(before, self)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython writes tuples in its own way otherwise, whatever the bundle says."""
        printer.text(str(self))

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        return self.table()._repr_mimebundle_(**options)
