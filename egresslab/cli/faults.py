"""`egresslab fault crash | power | hang | cut | kill | stop | heal | list`: break a lab on purpose, and mend it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from egresslab.cli.environment import DEFAULT_LAB, EnvironmentKind, Kind, open_environment
from egresslab.cli.output import LabName, Output, OutputAs, write_data, write_table
from egresslab.environments.base import Fault, FaultKind

app = typer.Typer(help="Break a lab on purpose, and mend it.", no_args_is_help=True)

Node = Annotated[str, typer.Argument(metavar="NODE", help="A node of the lab.")]


def _say_how_to_heal(what: str, node: str, lab: str, environment: Kind) -> None:
    option = "" if lab == DEFAULT_LAB else f" --lab {lab}"
    if environment is Kind.KIND:
        option += f" --environment {environment}"
    typer.echo(f"{what}; mend it with: egresslab fault heal {node}{option}", err=True)


@app.command()
def crash(node: Node, lab: LabName = DEFAULT_LAB, environment: EnvironmentKind = Kind.NETNS) -> None:
    """Let a node die at once, with everything on it, as in a power cut."""
    open_environment(environment, lab).break_(Fault(FaultKind.CRASH, node))
    _say_how_to_heal(f"{node} has crashed", node, lab, environment)


@app.command()
def power(node: Node, lab: LabName = DEFAULT_LAB, environment: EnvironmentKind = Kind.NETNS) -> None:
    """Let a node lose power for a moment: it dies at once and starts again."""
    open_environment(environment, lab).break_(Fault(FaultKind.POWER, node))


@app.command()
def hang(node: Node, lab: LabName = DEFAULT_LAB, environment: EnvironmentKind = Kind.NETNS) -> None:
    """Let a node's kernel stand still with all that is on it; only nodes that are machines can (--environment vm)."""
    open_environment(environment, lab).break_(Fault(FaultKind.HANG, node))
    _say_how_to_heal(f"{node} hangs", node, lab, environment)


@app.command()
def cut(
    node: Node,
    network: Annotated[str | None, typer.Option("--network", help="Only this network, such as public.")] = None,
    lab: LabName = DEFAULT_LAB,
    environment: EnvironmentKind = Kind.NETNS,
) -> None:
    """Pull a node's cables; the node itself goes on."""
    open_environment(environment, lab).break_(Fault(FaultKind.CUT, node, network))
    _say_how_to_heal(f"{node} is cut off {network or 'every network'}", node, lab, environment)


@app.command()
def kill(
    process: Annotated[str, typer.Argument(metavar="PROCESS", help="A process that `egresslab status` shows.")],
    lab: LabName = DEFAULT_LAB,
    environment: EnvironmentKind = Kind.NETNS,
) -> None:
    """Kill -9 one of the lab's own processes; the supervisor starts it again."""
    open_environment(environment, lab).break_(Fault(FaultKind.KILL, process))


@app.command()
def stop(
    process: Annotated[str, typer.Argument(metavar="PROCESS", help="A process that `egresslab status` shows.")],
    lab: LabName = DEFAULT_LAB,
    environment: EnvironmentKind = Kind.NETNS,
) -> None:
    """Kill -9 one of the lab's own processes, and let it stay away."""
    open_environment(environment, lab).break_(Fault(FaultKind.STOP, process))
    _say_how_to_heal(f"{process} is stopped", process, lab, environment)


@app.command()
def heal(node: Node, lab: LabName = DEFAULT_LAB, environment: EnvironmentKind = Kind.NETNS) -> None:
    """Mend every fault of a node or process: cables go back in, a crashed node starts again."""
    open_environment(environment, lab).heal(node)


@app.command("list")
def list_faults(
    lab: LabName = DEFAULT_LAB, environment: EnvironmentKind = Kind.NETNS, output: OutputAs = Output.TABLE
) -> None:
    """List the faults in force."""
    faults = open_environment(environment, lab).faults()
    if output is Output.TABLE:
        write_table(("NODE", "FAULT", "NETWORK"), ((f.target, f.kind.value, f.network or "-") for f in faults))
    else:
        write_data([{**asdict(fault), "kind": fault.kind.value} for fault in faults], output)
