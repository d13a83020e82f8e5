"""`egresslab bpf …`: what the kernels of a lab's nodes hold, asked of each node's agent through the Kubernetes API."""

from __future__ import annotations

import json
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from egresslab.errors import ClusterError

app = typer.Typer(help="What the kernel holds, read from the kernel.", no_args_is_help=True)
egress = typer.Typer(help="Egress policy entries.", no_args_is_help=True)
app.add_typer(egress, name="egress")

AGENT_SELECTOR = "app.kubernetes.io/name=egresslab-agent"
AGENT_NAMESPACE = "kube-system"


class Output(StrEnum):
    """How a listing is written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Kubeconfig = Annotated[
    Path | None, typer.Option(envvar="KUBECONFIG", help="Cluster to ask; default: the running lab.", show_default=False)
]
NodeName = Annotated[str | None, typer.Option("--node", "-N", help="Only this node.")]
OutputAs = Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")]


@egress.command("list")
@egress.command("ls", hidden=True)
def egress_list(node: NodeName = None, output: OutputAs = Output.TABLE, kubeconfig: Kubeconfig = None) -> None:
    """List egress policy entries in Cilium's four columns, node by node."""
    agents = _agents(kubeconfig, node)
    if output is not Output.TABLE:
        rows = {name: json.loads(_ask(kubeconfig, pod, "egress", "list", "-o", "json")) for name, pod in agents.items()}
        answer: Any = rows if node is None else rows[node]
        typer.echo(json.dumps(answer, indent=2) if output is Output.JSON else yaml.safe_dump(answer, sort_keys=False))
        return
    for position, (name, pod) in enumerate(agents.items()):
        if node is None:
            typer.echo(("\n" if position else "") + f"==> {name} <==")
        typer.echo(_ask(kubeconfig, pod, "egress", "list"), nl=False)


def _agents(kubeconfig: Path | None, node: str | None) -> dict[str, str]:
    """Node name to the agent pod there, by node name."""
    listed = json.loads(
        _kubectl(kubeconfig, "-n", AGENT_NAMESPACE, "get", "pods", "-l", AGENT_SELECTOR, "-o", "json").stdout
    )
    agents = {
        pod["spec"]["nodeName"]: pod["metadata"]["name"]
        for pod in listed["items"]
        if pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") == "Running"
    }
    if node is not None:
        if node not in agents:
            raise ClusterError(
                "no agent runs there", object=f"Node/{node}", fix=f"one of: {', '.join(sorted(agents)) or 'none'}"
            )
        return {node: agents[node]}
    if not agents:
        raise ClusterError("no agent runs in this cluster", object=AGENT_NAMESPACE, fix="`egresslab up` brings one up")
    return dict(sorted(agents.items()))


def _ask(kubeconfig: Path | None, pod: str, *arguments: str) -> str:
    """What `egresslab-dbg bpf …` prints in an agent; its messages go to our stderr."""
    answer = _kubectl(kubeconfig, "-n", AGENT_NAMESPACE, "exec", pod, "--", "egresslab-dbg", "bpf", *arguments)
    sys.stderr.write(answer.stderr)
    return answer.stdout


def _kubectl(kubeconfig: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    from egresslab.cli.kubectl import kubectl_command

    answer = subprocess.run(kubectl_command(kubeconfig, *arguments), capture_output=True, text=True, timeout=30)
    if answer.returncode:
        raise ClusterError(answer.stderr.strip() or "kubectl failed", object=" ".join(arguments[:4]))
    return answer
