"""`egresslab drill failover | maintenance`: traffic through an event, measured; exit 0 only if every promise held."""

from __future__ import annotations

import signal
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from egresslab.cli.environment import DEFAULT_LAB, EnvironmentKind, open_environment
from egresslab.cli.environment import Kind as EnvironmentName
from egresslab.cli.output import LabName
from egresslab.cli.progress import StepLines
from egresslab.environments.base import Environment
from egresslab.lab import attachment
from egresslab.lab.client import Client
from egresslab.lab.drills import timeline, view
from egresslab.lab.drills.breakages import Mode
from egresslab.lab.drills.drill import Drill, Kind, Plan
from egresslab.lab.drills.families import Family, agreed
from egresslab.lab.drills.result import DrillResult
from egresslab.lab.drills.scene import Addressing
from egresslab.lab.drills.sender import Pattern

FEWER_CONNECTIONS = 10
"""What is kept open by default where processors are emulated."""

app = typer.Typer(help="Traffic through a fault, measured.", no_args_is_help=True)


class Form(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    SVG = "svg"


Gateway = Annotated[
    str | None, typer.Option("--gateway", help="An EgressGateway that is there; default: one made for the drill.")
]
Source = Annotated[Addressing, typer.Option("--source", help="Source address of the gateway made for the drill.")]
Candidates = Annotated[int, typer.Option("--candidates", min=1, help="Nodes of the gateway made for the drill.")]
Interface = Annotated[str, typer.Option("--interface", help="Interface towards the world.")]
VirtualIP = Annotated[str | None, typer.Option("--virtual-ip", help="Address to use; default: a spare one.")]
Connections = Annotated[
    int | None,
    typer.Option("--connections", min=1, help="TCP connections that are kept open. [50; 10 on emulated processors]"),
]
Interval = Annotated[float, typer.Option("--interval-ms", min=1, help="Between two datagrams, and two pings.")]
After = Annotated[float, typer.Option("--after-s", min=0.5, help="How long traffic goes on after an event.")]
Target = Annotated[
    str | None,
    typer.Option("--target", help="Server outside that answers with the address it saw; default: the lab's own."),
]
AddressFamily = Annotated[
    Family | None, typer.Option("--family", help="Default: that of --virtual-ip or --target, else ipv4.")
]
Output = Annotated[Form, typer.Option("--output", "-o", help="table, json or svg.")]
Picture = Annotated[Path | None, typer.Option("--picture", help="Write the timeline to this file too, as SVG.")]
Outside = Annotated[bool, typer.Option("--kubeconfig", help="Use the cluster of KUBECONFIG instead of a lab.")]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _drill(
    plan: Plan,
    connections: int | None,
    lab: str,
    kind: EnvironmentName,
    outside: bool,
    output: Form,
    picture: Path | None,
) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    environment: Environment | None = None if outside else open_environment(kind, lab)
    kubeconfig = environment.kubeconfig() if environment else attachment.kubeconfig_of_variable()
    if connections is None:
        slow = environment is not None and environment.patience > 1
        connections = FEWER_CONNECTIONS if slow else plan.pattern.connections
    plan = replace(plan, pattern=replace(plan.pattern, connections=connections))
    client, progress = Client(kubeconfig), StepLines()
    try:
        result = Drill(client, environment, plan, progress).run()
    except BaseException:
        progress.finish(ok=False)
        raise
    finally:
        client.close()
    progress.finish()
    _write(result, output, picture)
    if not result:
        raise typer.Exit(1)


def _write(result: DrillResult, output: Form, picture: Path | None) -> None:
    if picture is not None:
        picture.write_text(timeline.document(result))
    if output is Form.JSON:
        from egresslab.cli.output import Output as DataOutput
        from egresslab.cli.output import write_data

        write_data(result.to_json(), DataOutput.JSON)
    elif output is Form.SVG:
        typer.echo(timeline.document(result))
    else:
        typer.echo(view.text(result))


def _addressed(plan: Plan, family: Family | None, virtual_ip: str | None, target: str | None) -> Plan:
    """The plan with addresses of one family."""
    chosen, given = agreed(family, {"--virtual-ip": virtual_ip, "--target": target})
    options = {"target": target} if target else {}
    pattern = Pattern.over(chosen, **options, interval_ms=plan.pattern.interval_ms)
    return replace(plan, virtual=given.get("--virtual-ip"), pattern=pattern)


@app.command()
def failover(
    mode: Annotated[Mode, typer.Option("--mode", help="What happens to the active gateway.")] = Mode.CRASH,
    gateway: Gateway = None,
    source: Source = Addressing.VIRTUAL_IP,
    candidates: Candidates = 2,
    interface: Interface = "eth1",
    virtual_ip: VirtualIP = None,
    connections: Connections = None,
    interval_ms: Interval = 10.0,
    after_s: After = 3.0,
    target: Target = None,
    family: AddressFamily = None,
    lab: LabName = DEFAULT_LAB,
    environment: EnvironmentKind = EnvironmentName.NETNS,
    kubeconfig: Outside = False,
    output: Output = Form.TABLE,
    picture: Picture = None,
) -> None:
    """Break the active gateway under traffic, and measure the gap."""
    pattern = Pattern(interval_ms=interval_ms)
    plan = Plan(Kind.FAILOVER, mode, gateway, source, candidates, interface, None, pattern, after_s=after_s)
    _drill(_addressed(plan, family, virtual_ip, target), connections, lab, environment, kubeconfig, output, picture)


@app.command()
def maintenance(
    gateway: Gateway = None,
    source: Source = Addressing.VIRTUAL_IP,
    candidates: Candidates = 2,
    interface: Interface = "eth1",
    virtual_ip: VirtualIP = None,
    connections: Connections = None,
    interval_ms: Interval = 10.0,
    after_s: After = 3.0,
    target: Target = None,
    family: AddressFamily = None,
    lab: LabName = DEFAULT_LAB,
    environment: EnvironmentKind = EnvironmentName.NETNS,
    kubeconfig: Outside = False,
    output: Output = Form.TABLE,
    picture: Picture = None,
) -> None:
    """Take the active gateway into maintenance and back under traffic: unlabel, cordon, wait, uncordon, label."""
    pattern = Pattern(interval_ms=interval_ms)
    plan = Plan(Kind.MAINTENANCE, Mode.CRASH, gateway, source, candidates, interface, None, pattern, after_s=after_s)
    _drill(_addressed(plan, family, virtual_ip, target), connections, lab, environment, kubeconfig, output, picture)
