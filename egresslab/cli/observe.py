"""`egresslab observe`: flows of all nodes as they happen, with the options of `hubble observe`.

The same command runs inside an agent's container (`egresslab-dbg observe`, or `hubble observe` as tutorials have it);
there it shows what that one node sees.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from egresslab.cli.environment import DEFAULT_LAB, EnvironmentKind, Kind, open_environment
from egresslab.cli.output import LabName
from egresslab.flows.filters import Filter
from egresslab.flows.flow import Told, Verdict
from egresslab.flows.rendering import Form, writer
from egresslab.flows.times import moment

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)

DEFAULT_LAST = 20

CHOOSE, WHEN, WHERE = "Which flows", "When", "Where"


@app.command()
def observe(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes.", rich_help_panel=WHEN)
    ] = False,
    last: Annotated[
        int | None,
        typer.Option("--last", min=0, help="The last N flows; default 20, with --follow 0.", rich_help_panel=WHEN),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that agents kept.", rich_help_panel=WHEN)] = False,
    since: Annotated[
        str | None, typer.Option(help="From then on: 5m, or 2026-01-31T12:00:00Z.", rich_help_panel=WHEN)
    ] = None,
    until: Annotated[str | None, typer.Option(help="Up to then.", rich_help_panel=WHEN)] = None,
    pod: Annotated[
        list[str] | None,
        typer.Option(
            "--pod",
            "--from-pod",
            help="Sent by: [NAMESPACE/]PREFIX of a pod's name; NAMESPACE/ for all of them.",
            rich_help_panel=CHOOSE,
        ),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", "--from-namespace", help="Sent from there.", rich_help_panel=CHOOSE),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option("--node", "--node-name", help="Seen by that node; * matches.", rich_help_panel=CHOOSE),
    ] = None,
    gateway: Annotated[
        list[str] | None, typer.Option(help="Through that gateway node; * matches.", rich_help_panel=CHOOSE)
    ] = None,
    to_fqdn: Annotated[
        list[str] | None, typer.Option(help="To a destination of that name; * matches.", rich_help_panel=CHOOSE)
    ] = None,
    to_ip: Annotated[list[str] | None, typer.Option(help="To an address or network.", rich_help_panel=CHOOSE)] = None,
    to_port: Annotated[list[int] | None, typer.Option(help="To a port.", rich_help_panel=CHOOSE)] = None,
    snat_ip: Annotated[list[str] | None, typer.Option(help="Left with that egress IP.", rich_help_panel=CHOOSE)] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="TCP, UDP, ICMP, ICMPV6.", rich_help_panel=CHOOSE)] = None,
    verdict: Annotated[
        list[Verdict] | None, typer.Option(case_sensitive=False, help="What became of it.", rich_help_panel=CHOOSE)
    ] = None,
    drop_reason: Annotated[
        list[str] | None, typer.Option(help="Dropped for that reason: NO_GATEWAY, …", rich_help_panel=CHOOSE)
    ] = None,
    output: Annotated[
        Form, typer.Option("--output", "-o", help="jsonpb has Hubble's field names.", show_default=True)
    ] = Form.TABLE,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(envvar="KUBECONFIG", help="Cluster to ask; default: the running lab.", rich_help_panel=WHERE),
    ] = None,
    lab: LabName = DEFAULT_LAB,
    environment: EnvironmentKind = Kind.NETNS,
    socket: Annotated[Path | None, typer.Option(hidden=True, help="One agent's socket, instead of a cluster.")] = None,
) -> None:
    """Flows that an egress policy concerns: opened, closed, dropped and why. Options of one kind are alternatives,
    different kinds add up."""
    now = time.time_ns()
    wanted = Filter(
        pods=tuple(pod or ()),
        namespaces=tuple(namespace or ()),
        nodes=tuple(node or ()),
        gateways=tuple(gateway or ()),
        fqdns=tuple(to_fqdn or ()),
        to_ips=tuple(to_ip or ()),
        to_ports=tuple(to_port or ()),
        snat_ips=tuple(snat_ip or ()),
        protocols=tuple(protocol or ()),
        verdicts=tuple(each.value for each in verdict or ()),
        reasons=tuple(drop_reason or ()),
        since_ns=moment(since, now) if since else None,
        until_ns=moment(until, now, "--until") if until else None,
    )
    if last is None and not everything and not (since or until):
        last = 0 if follow else DEFAULT_LAST
    if socket is not None:
        running = _one_agent(socket, wanted, last, follow, output)
    else:
        running = _cluster(kubeconfig or open_environment(environment, lab).kubeconfig(), wanted, last, follow, output)
    try:
        asyncio.run(running)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # Whoever read along has seen enough (`| head`); nothing more can be written, also not at exit.
        sys.stdout = None
        raise typer.Exit(0) from None


async def _cluster(kubeconfig: Path, wanted: Filter, last: int | None, follow: bool, form: Form) -> None:
    """In JSON, an empty line says where the past ends, as agents say it."""
    from egresslab.api.connection import connect
    from egresslab.flows import relay

    async with connect(kubeconfig) as api:
        if not follow:
            _list(await relay.past(api, wanted, last, _complain), form)
            return
        lines = writer(form)
        async with relay.Following(api, wanted, last, _complain) as following:
            async for told in following:
                if told is not None:
                    print(*lines(told), sep="\n", flush=True)
                elif form is Form.JSON:
                    print(flush=True)


async def _one_agent(socket: Path, wanted: Filter, last: int | None, follow: bool, form: Form) -> None:
    """In JSON, an empty line says where the past ends, as the agent itself says it."""
    from egresslab.flows.agentside import Observer
    from egresslab.flows.names import DestinationNames

    observer = Observer(socket, wanted, DestinationNames())
    if not follow:
        _list(await observer.past(last), form)
        return
    lines, mark = writer(form), form is Form.JSON
    async for batch in observer.follow(last):
        for told in batch:
            print(*lines(told), sep="\n")
        if mark:
            print()
            mark = False
        sys.stdout.flush()


def _list(told: Sequence[Told], form: Form) -> None:
    lines = writer(form, told)
    for each in told:
        print(*lines(each), sep="\n")
    if not told and form in (Form.TABLE, Form.COMPACT):
        print("No flows found.", file=sys.stderr)


def _complain(text: str) -> None:
    print(f"egresslab: {text}", file=sys.stderr)


def in_container(arguments: list[str]) -> None:
    """The command on this node's agent alone; arguments as a person types them."""
    from egresslab.flows.agentside import SOCKET

    app(["--socket", str(SOCKET), *arguments], prog_name="egresslab-dbg observe")
