"""`egresslab-dbg trace`: one packet's way through this node's datapath, for people and for programs.

All that it says was read from the kernel or decided by it; see egresslab.datapath.tracing.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import typer

from egresslab.cli.output import Output, write_data, write_table
from egresslab.cli.transport import Transport
from egresslab.datapath.tracing import Trace, at, trace
from egresslab.datapath.values import IPAddress, Protocol
from egresslab.errors import DatapathError


def print_trace(
    pod: str, destination: str, transport: Transport, port: int, source_port: int | None, output: Output, pin_dir: Path
) -> None:
    """Trace and print. Raises EgresslabError for what cannot be traced."""
    target = _address(destination, "destination")
    protocol = {
        Transport.TCP: Protocol.TCP,
        Transport.UDP: Protocol.UDP,
        Transport.ICMP: Protocol.ICMP if target.version == 4 else Protocol.ICMPV6,
    }[transport]
    found = trace(pin_dir, _pod_address(pod, target.version), target, protocol, port, source_port)
    if output is Output.TABLE:
        _print_table(found)
    else:
        write_data(as_data(found), output)


def as_data(found: Trace) -> dict[str, object]:
    """The trace with stable field names."""
    return {
        "program": found.program.name.lower(),
        "protocol": found.protocol.name,
        "source": str(found.source),
        "source_port": found.source_port,
        "destination": str(found.destination),
        "port": found.port,
        "existing_flow": found.existing,
        "steps": [{"lookup": step.lookup, "key": step.key, "found": step.found} for step in found.steps],
        "verdict": found.verdict.name,
        "reason": found.reason.name,
        "reason_number": int(found.reason),
        "dropped": found.reason.dropped,
        "meaning": found.meaning,
        "rewritten": [{"field": each.field, "before": each.before, "after": each.after} for each in found.rewritten],
        "next": found.next,
    }


def _print_table(found: Trace) -> None:
    flow = "the next packet of a flow that is there" if found.existing else "the first packet of a flow"
    typer.echo(
        f"{found.protocol.name} {at(found.source, found.source_port)} -> {at(found.destination, found.port)}, {flow},"
        f" through {found.program.name.lower()}\n"
    )
    write_table(("LOOKUP", "KEY", "FOUND"), [(step.lookup, step.key, step.found) for step in found.steps])
    typer.echo(
        f"\n{'DROPPED' if found.reason.dropped else found.verdict.name}: {found.reason.name} ({int(found.reason)})"
    )
    typer.echo(f"  {found.meaning}")
    if found.rewritten:
        typer.echo()
        rows = [(each.field, each.before or "-", each.after or "-") for each in found.rewritten]
        write_table(("CHANGED", "BEFORE", "AFTER"), rows)
    typer.echo(f"\nNext: {found.next}")


def _pod_address(pod: str, version: int) -> IPAddress:
    if "/" not in pod:
        return _address(pod, "pod")
    from egresslab.agent.podnames import addresses_of

    found = next((address for address in addresses_of(pod) if address.version == version), None)
    if found is None:
        raise DatapathError(f"the pod has no IPv{version} address", object=f"pod {pod}")
    return found


def _address(text: str, what: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError as error:
        fix = "give NAMESPACE/NAME or an address" if what == "pod" else "give an IPv4 or IPv6 address"
        raise DatapathError("no address", object=what, value=text, fix=fix) from error
