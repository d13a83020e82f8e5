"""What every node's kernel holds, asked of the agents through exec: Cilium's, or ours. Nothing is written anywhere.

As many at a time as allowed, each with a deadline. A node that does not answer is an answer too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from egresslab.api.connection import Api
from egresslab.api.resources import PODS
from egresslab.errors import ClusterError
from egresslab.flows.execs import output_lines
from egresslab.policy.verify import Whose

NAMESPACE = "kube-system"


@dataclass(frozen=True, slots=True)
class Agents:
    """Where agents are found and what they are asked; of several commands the first that exists."""

    selector: str
    container: str
    commands: tuple[tuple[str, ...], ...]


LIST = ("bpf", "egress", "list", "-o", "json")
OURS = Agents("app.kubernetes.io/name=egresslab-agent", "agent", (("egresslab-dbg", *LIST),))
# Before Cilium 1.15 the debugger was called as the command-line tool.
CILIUMS = Agents("k8s-app=cilium", "cilium-agent", (("cilium-dbg", *LIST), ("cilium", *LIST)))


@dataclass(frozen=True, slots=True)
class Answer:
    """One node's: what was printed, or why there is nothing."""

    node: str
    text: str | None
    error: str = ""


async def whose_agents(api: Api, whose: Whose) -> tuple[Whose, Agents, dict[str, str]]:
    """Whose they are, how to ask, and by node the pod of its agent that runs. Raises `ClusterError` where there are
    none."""
    for candidate, agents in ((Whose.EGRESSLAB, OURS), (Whose.CILIUM, CILIUMS)):
        if whose not in (Whose.AUTO, candidate):
            continue
        pods, _ = await api.list(PODS, NAMESPACE, label_selector=agents.selector)
        running = {
            pod["spec"]["nodeName"]: pod["metadata"]["name"]
            for pod in pods
            if pod["spec"].get("nodeName")
            and pod.get("status", {}).get("phase") == "Running"
            and "deletionTimestamp" not in pod["metadata"]
        }
        if pods:
            return candidate, agents, running
    raise ClusterError(
        "no agents to ask",
        object=NAMESPACE,
        value=str(whose),
        fix=f"they are looked for by {OURS.selector} or {CILIUMS.selector}; name them with --agents",
    )


async def ask_nodes(
    api: Api,
    agents: Agents,
    pods: Mapping[str, str],
    nodes: Iterable[str],
    *,
    together: int,
    timeout_s: float,
    answered: Callable[[Answer], None] = lambda answer: None,
) -> dict[str, Answer]:
    """Every node's answer; `answered` is called as they come in."""
    limit = asyncio.Semaphore(together)

    async def ask(node: str) -> Answer:
        async with limit:
            answer = await _ask(api, agents, pods.get(node), node, timeout_s)
        answered(answer)
        return answer

    return {answer.node: answer for answer in await asyncio.gather(*(ask(node) for node in nodes))}


async def _ask(api: Api, agents: Agents, pod: str | None, node: str, timeout_s: float) -> Answer:
    if pod is None:
        return Answer(node, None, "no agent runs there")
    error = ""
    for command in agents.commands:
        try:
            async with asyncio.timeout(timeout_s):
                lines = [line async for line in output_lines(api, NAMESPACE, pod, agents.container, command)]
            return Answer(node, b"\n".join(lines).decode(errors="replace"))
        except TimeoutError:
            return Answer(node, None, f"{pod} did not answer within {timeout_s:g} s")
        except ClusterError as failure:
            if "No entries found" in str(failure):
                return Answer(node, "")
            error = error or str(failure)
    return Answer(node, None, error)
