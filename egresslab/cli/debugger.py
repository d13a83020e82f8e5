"""`egresslab-dbg`, the debugger inside an agent's container: what this node's kernel holds, read from the kernel.

It answers to `cilium-dbg` as well, so that the commands of tutorials work as they are written.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from egresslab.cli.output import Output, OutputAs, write_data, write_table
from egresslab.cli.transport import Transport
from egresslab.errors import EgresslabError

app = typer.Typer(
    help="Look at the datapath of this node.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bpf = typer.Typer(help="What the kernel's maps hold.", no_args_is_help=True)
app.add_typer(bpf, name="bpf")

PinDir = Annotated[
    Path, typer.Option("--pin-dir", envvar="EGRESSLAB_PIN_DIR", help="Where the maps are pinned.", show_default=True)
]
DEFAULT_PIN_DIR = Path("/sys/fs/bpf/egresslab")


Listing = Callable[[Output, Path], None]


def _listing(name: str, summary: str) -> Callable[[Listing], Listing]:
    """Make a function the command `bpf NAME list`, and `ls` for short."""

    def register(function: Listing) -> Listing:
        group = typer.Typer(help=summary, no_args_is_help=True)
        group.command("list", help=summary)(function)
        group.command("ls", hidden=True)(function)
        bpf.add_typer(group, name=name)
        return function

    return register


@_listing("egress", "Egress policy entries, in Cilium's four columns.")
def egress_list(output: OutputAs = Output.TABLE, pin_dir: PinDir = DEFAULT_PIN_DIR) -> None:
    """The policy map with its slots looked up."""
    from egresslab.datapath.listing import egress_rows, render_egress

    rows = egress_rows(pin_dir)
    if output is not Output.TABLE:
        write_data(rows, output)
        return
    text = render_egress(rows)
    typer.echo(text, err=not rows, nl=not rows)


@_listing("slots", "Gateway slots: what each gateway choice means on this node.")
def slots_list(output: OutputAs = Output.TABLE, pin_dir: PinDir = DEFAULT_PIN_DIR) -> None:
    """Slots by number."""
    from egresslab.datapath.gateways import followed
    from egresslab.datapath.inspection import pinned_maps

    with pinned_maps(pin_dir) as maps:
        holders = maps.leases.holders()
        rows = [
            {
                "slot": number,
                "gateway_ip": _text(slot.endpoint),
                "egress_ip_v4": _text(slot.source_v4),
                "egress_ip_v6": _text(slot.source_v6),
                "ifindex": slot.ifindex,
                "local": slot.local,
                "open": slot.open,
                "lease": slot.lease or "",
            }
            for number, leased in sorted(maps.slots.items())
            for slot in (followed(leased, holders),)
        ]
    _write(rows, output)


@_listing("nat", "Flows: translated, steered, opened from outside, and the node's own.")
def nat_list(output: OutputAs = Output.TABLE, pin_dir: PinDir = DEFAULT_PIN_DIR) -> None:
    """The flow table; a translation appears with both halves."""
    from egresslab.datapath.inspection import pinned_maps

    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    with pinned_maps(pin_dir) as maps:
        rows = [
            {
                "protocol": flow.key.protocol.name,
                "kind": flow.kind.name,
                "local": f"{flow.key.local} {flow.key.local_port}",
                "remote": f"{flow.key.remote} {flow.key.remote_port}",
                "translated_to": f"{flow.address} {flow.port}" if flow.address is not None else "",
                "slot": flow.slot,
                "node": _text(flow.node),
                "idle_seconds": max(0, now - flow.seen_ns) // 10**9,
            }
            for flow in maps.nat.items()
        ]
    _write(sorted(rows, key=lambda row: (str(row["local"]), str(row["remote"]), str(row["kind"]))), output)


@_listing("endpoints", "Pod addresses: the link of a local pod, the node of a remote one.")
def endpoints_list(output: OutputAs = Output.TABLE, pin_dir: PinDir = DEFAULT_PIN_DIR) -> None:
    """Endpoints by address."""
    from egresslab.datapath.inspection import pinned_maps

    with pinned_maps(pin_dir) as maps:
        rows = [
            {
                "address": str(address),
                "ifindex": endpoint.ifindex,
                "mac": endpoint.mac if endpoint.ifindex else "",
                "node": _text(endpoint.node),
                "ready": endpoint.ready,
            }
            for address, endpoint in sorted(maps.endpoints.items(), key=lambda item: (item[0].version, int(item[0])))
        ]
    _write(rows, output)


@_listing("counters", "Packets and bytes by program and by what became of them.")
def counters_list(output: OutputAs = Output.TABLE, pin_dir: PinDir = DEFAULT_PIN_DIR) -> None:
    """Counters that are not zero, summed over processors."""
    from egresslab.datapath.inspection import pinned_maps

    with pinned_maps(pin_dir) as maps:
        rows = [
            {
                "program": program.name.lower(),
                "reason": reason.name,
                "dropped": reason.dropped,
                "packets": count.packets,
                "bytes": count.bytes,
            }
            for (program, reason), count in sorted(maps.counters.read().items())
        ]
    _write(rows, output)


@app.command("trace")
def trace_packet(
    pod: Annotated[str, typer.Argument(help="NAMESPACE/NAME or the pod's address.")],
    destination: Annotated[str, typer.Argument(help="Address that the pod would write to.")],
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Destination port.")] = 443,
    protocol: Annotated[Transport, typer.Option("--proto", help="tcp, udp or icmp.")] = Transport.TCP,
    source_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The pod's port; an unused one if not given.")
    ] = None,
    output: OutputAs = Output.TABLE,
    pin_dir: PinDir = DEFAULT_PIN_DIR,
) -> None:
    """What would become of a packet: each lookup on this node, the verdict, what changes, and what comes next.

    On the pod's own node it is followed as it leaves the pod, elsewhere as if its node had sent it here to be
    translated. Nothing is sent, counted or left behind.
    """
    from egresslab.cli.tracing import print_trace

    print_trace(pod, destination, protocol, port, source_port, output, pin_dir)


@app.command(
    "observe", add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
def observe(context: typer.Context) -> None:
    """Flows that this node sees, as `egresslab observe` shows those of all nodes."""
    from egresslab.cli.observe import in_container

    in_container(context.args)


def _text(address: object) -> str:
    return "" if address is None else str(address)


def _write(rows: list[dict[str, Any]], output: Output) -> None:
    """A listing whose columns are the fields of its rows."""
    if output is not Output.TABLE:
        write_data(rows, output)
    elif rows:
        heading = [name.replace("_", " ").upper() for name in rows[0]]
        write_table(heading, [["-" if cell == "" else cell for cell in row.values()] for row in rows])
    else:
        typer.echo("No entries found.", err=True)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except EgresslabError as error:
        print(f"egresslab-dbg: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
