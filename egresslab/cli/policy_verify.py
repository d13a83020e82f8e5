"""`egresslab policy verify`: do the nodes' kernels hold what the policies imply? The command, and how it is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from xml.etree import ElementTree

import typer

from egresslab.cli.lint_reports import xml_text
from egresslab.cli.output import LabName, Output, write_data, write_table
from egresslab.policy.verify import Difference, Whose

if TYPE_CHECKING:
    from egresslab.cli.verification import Verified

SPECIAL = {"0.0.0.0": "Not Found", "0.0.0.1": "Excluded CIDR"}


class VerifyOutput(StrEnum):
    """How the outcome is written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    JUNIT = "junit"


def verify(
    output: Annotated[
        VerifyOutput, typer.Option("--output", "-o", help="table, json, yaml or junit.")
    ] = VerifyOutput.TABLE,
    agents: Annotated[Whose, typer.Option("--agents", help="Whose agents to ask; auto: ours where they run.")] = (
        Whose.AUTO
    ),
    node: Annotated[
        list[str] | None, typer.Option("--node", "-N", help="Only this node; again for more. Default: every node.")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="How many nodes are asked at a time.")] = 16,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that a node may take.")] = 30.0,
    settle: Annotated[
        float, typer.Option("--settle", min=0.0, help="Seconds before what differs is looked at again.")
    ] = 3.0,
    health_aware: Annotated[
        bool, typer.Option("--cilium-health-aware-gateways", help="As the agents were told; default: the cluster's.")
    ] = False,
    kubeconfig: Annotated[
        Path | None, typer.Option("--kubeconfig", envvar="KUBECONFIG", help="Cluster; default: the running lab.")
    ] = None,
    context: Annotated[str | None, typer.Option("--context", help="Context in it; default: the current one.")] = None,
    lab: LabName = "default",
) -> None:
    """Compare what the policies of a live cluster imply with what each node's kernel holds.

    Exit status 1 when a row is missing, stale or different, or a node did not answer.
    """
    # Imported here: offline commands answer without the client and the environments.
    from egresslab.cli.environment import Kind as EnvironmentName
    from egresslab.cli.environment import open_environment
    from egresslab.cli.verification import Question, compare_kernels

    where = kubeconfig or open_environment(EnvironmentName.NETNS, lab).kubeconfig()
    question = Question(agents, frozenset(node or ()), parallel, timeout, settle, health_aware)
    found = asyncio.run(compare_kernels(where, context, question))
    for refused in found.refused:
        typer.echo(f"warning: not in force: {refused}", err=True)
    match output:
        case VerifyOutput.JUNIT:
            typer.echo(junit(found))
        case VerifyOutput.TABLE:
            _print(found)
        case _:
            write_data(found.as_dict(), Output(output.value))
    if not found.agrees:
        raise typer.Exit(1)


def _print(found: Verified) -> None:
    heading = ["NODE", "PROBLEM", "SOURCE", "DESTINATION", "POD", "POLICY", "EXPECTED", "FOUND"]
    rows = [[*_cells(difference)] for difference in found.differences]
    rows += [[node, "no answer", "-", "-", "-", "-", "-", error] for node, error in sorted(found.silent.items())]
    if rows:
        write_table(heading, rows)
    typer.echo(summary(found), err=True)


def summary(found: Verified) -> str:
    """One line for people."""
    kinds = Counter(str(difference.kind) for difference in found.differences)
    wrong = {difference.node for difference in found.differences}
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no differences"
    silent = f"; {len(found.silent)} did not answer" if found.silent else ""
    rows = sum(found.rows.values())
    return f"{len(found.rows) - len(wrong)} of {len(found.rows)} nodes agree ({rows} rows): {said}{silent}"


def _cells(each: Difference) -> Sequence[str]:
    expected = _led(each.expected_gateway, each.expected_egress)
    found = _led(each.found_gateway, each.found_egress)
    pod, policy = each.pod or "-", each.policy or "-"
    return each.node, str(each.kind), each.source, each.destination, pod, policy, expected, found


def _led(gateway: str, egress: str) -> str:
    if not gateway:
        return "-"
    via = SPECIAL.get(gateway, gateway)
    return via if egress in ("", "0.0.0.0", "::") else f"{via} as {egress}"


def junit(found: Verified) -> str:
    """A case for each node; differences are failures, silence is an error."""
    wrong = {difference.node for difference in found.differences}
    root = ElementTree.Element("testsuites", name="egresslab policy verify")
    counts = {"tests": len(found.rows) + len(found.silent), "failures": len(wrong), "errors": len(found.silent)}
    suite = ElementTree.SubElement(root, "testsuite", {"name": "nodes", **{k: str(v) for k, v in counts.items()}})
    for node in sorted([*found.rows, *found.silent]):
        case = ElementTree.SubElement(suite, "testcase", classname="nodes", name=node)
        if node in found.silent:
            ElementTree.SubElement(case, "error", message=xml_text(found.silent[node]), type="no answer")
        elif node in wrong:
            own = [difference for difference in found.differences if difference.node == node]
            failure = ElementTree.SubElement(case, "failure", message=f"{len(own)} rows differ", type=str(own[0].kind))
            failure.text = xml_text("\n".join("  ".join(_cells(difference)) for difference in own))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
