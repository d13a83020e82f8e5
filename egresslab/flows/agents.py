"""Where agents are, what is asked of them, and how their answers become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from egresslab.errors import ClusterError
from egresslab.flows.filters import Filter, arguments
from egresslab.flows.flow import Flow, Told

NAMESPACE = "kube-system"
SELECTOR = "app.kubernetes.io/name=egresslab-agent"
CONTAINER = "agent"
COMMAND = ("python", "-m", "egresslab.flows.tail")


def running(pods: Iterable[Mapping[str, Any]], wanted: Filter) -> dict[str, str]:
    """Name of the agent's pod on each wanted node that has a running one."""
    return {
        pod["spec"]["nodeName"]: pod["metadata"]["name"]
        for pod in pods
        if pod["spec"].get("nodeName")
        and wanted.wants_node(pod["spec"]["nodeName"])
        and pod.get("status", {}).get("phase") == "Running"
        and "deletionTimestamp" not in pod["metadata"]
    }


def nobody(wanted: Filter) -> ClusterError:
    """What to raise when there is no agent to ask."""
    if wanted.nodes:
        return ClusterError("no agent runs there", object=f"Node/{', '.join(wanted.nodes)}", fix="kubectl get nodes")
    return ClusterError("no agent runs in this cluster", object=NAMESPACE, fix="egresslab up")


def command(wanted: Filter, *, last: int | None, follow: bool) -> list[str]:
    """What is executed in an agent's container."""
    tail = [f"--last={last}"] if last is not None else []
    return [*COMMAND, *tail, *(["--follow"] if follow else []), *arguments(wanted)]


def merged(told: Iterable[Told], last: int | None = None) -> Sequence[Told]:
    """Events of several nodes in the order of their times; the last so many of them, with the gaps in between."""
    ordered = sorted(told, key=lambda each: each.time_ns)
    if last is None:
        return ordered
    flows = [index for index, each in enumerate(ordered) if isinstance(each, Flow)]
    if last >= len(flows):
        return ordered
    return ordered[flows[-last] :] if last else []
