"""The ways that packets took, as agents told them: from which pod, through which gateway, as whom, to where.

Read through `egresslab observe`, as anybody with a kubeconfig could; nothing is guessed where no agent has seen it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from egresslab.errors import ClusterError, LabError
from egresslab.flows.flow import Event, Flow, Told, Verdict, parse
from egresslab.lab import terminal

READ_TIMEOUT_S = 20.0
HEADER = ("pod", "goes to", "through", "leaves as", "connections", "verdict")


@dataclass(frozen=True, slots=True)
class Way:
    """One way, and how many connections took it; `egress` and `gateway` are empty where there was none."""

    pod: str
    namespace: str
    destination: str
    name: str
    gateway: str
    egress: str
    dropped: bool
    reason: str
    connections: int

    @property
    def said(self) -> str:
        """In a sentence."""
        where = f"{self.name} ({self.destination})" if self.name else self.destination
        if self.dropped:
            return f"{self.pod} to {where}: dropped, {self.reason or 'no reason given'}"
        return f"{self.pod} to {where} through {self.gateway or 'its own node'} as {self.egress or 'itself'}"

    @property
    def row(self) -> tuple[str, ...]:
        """In a table."""
        verdict = f"✘ dropped: {self.reason}" if self.dropped else "✔ forwarded"
        where = f"{self.destination} {self.name}".strip()
        return self.pod, where, self.gateway or "–", self.egress or "–", str(self.connections), verdict


def ways(told: Iterable[Told], namespaces: Iterable[str] = ()) -> tuple[Way, ...]:
    """Events taken together by way, in the order they began; of these namespaces only, if any are named."""
    wanted = set(namespaces)
    flows = [each for each in told if isinstance(each, Flow) and each.event is not Event.CLOSED]
    seen = Counter(_key(flow) for flow in flows if not wanted or flow.namespace in wanted)
    names = {str(flow.destination.ip): flow.names[0] for flow in flows if flow.names}
    return tuple(
        Way(pod, namespace, destination, names.get(destination, ""), gateway, egress, dropped, reason, number)
        for (pod, namespace, destination, gateway, egress, dropped, reason), number in seen.items()
    )


def _key(flow: Flow) -> tuple[str, str, str, str, str, bool, str]:
    egress = str(flow.egress.ip) if flow.egress else ""
    dropped = flow.verdict is Verdict.DROPPED
    return flow.pod, flow.namespace, str(flow.destination.ip), flow.gateway, egress, dropped, flow.reason


def recent(kubeconfig: str, seconds: float) -> list[Told]:
    """What agents have seen in the last seconds; `LabError` when none of them can be asked."""
    command = f"observe --since {seconds:g}s -o json"
    ended = terminal.egresslab(command, kubeconfig=kubeconfig, stdin=None, timeout_s=READ_TIMEOUT_S).succeeded()
    try:
        return [told for line in ended.stdout.splitlines() if line.strip() for told in parse(line)]
    except ClusterError as error:
        raise LabError(str(error), object=ended.command) from error
