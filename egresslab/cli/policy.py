"""`egresslab policy …`: entries, explain, plan and lint, on manifests or on a running cluster. Nothing is ever written.

Tables go to stdout; what was refused, and warnings, go to stderr. A refused object makes the exit status 1 and leaves
the rest as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated

import typer

from egresslab.cli.manifests import Document, load
from egresslab.cli.output import LabName, Output, OutputAs, write_data
from egresslab.cli.policy_tables import entries_table, explanation_text, plan_text
from egresslab.cli.policy_verify import verify
from egresslab.errors import EgresslabError, PolicyError
from egresslab.policy.endpoints import with_endpoint_uids
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Upsert
from egresslab.policy.explain import explain as explain_packet
from egresslab.policy.inventory import Kind, Pod, Ref, Value, ref_of
from egresslab.policy.objects import from_kubernetes, ref_of_object
from egresslab.policy.plan import plan as plan_change
from egresslab.policy.rows import listing
from egresslab.policy.settings import Fidelity, Settings

app = typer.Typer(
    help="Entries, explanation, plan and lint of egress policies.", no_args_is_help=True, add_completion=False
)

app.command()(verify)

Files = Annotated[
    list[str] | None,
    typer.Option("--filename", "-f", help="File, folder or - for stdin; again for more. Without it: the running lab."),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig", envvar="KUBECONFIG", help="Cluster to read where no files are given; default: the running lab."
    ),
]
Context = Annotated[str | None, typer.Option("--context", help="Context in the kubeconfig; default: the current one.")]
As = Annotated[
    Fidelity, typer.Option("--as", help="Whose outcome, where ours differs from Cilium's (docs/differences.md).")
]
HealthAware = Annotated[
    bool,
    typer.Option(
        "--cilium-health-aware-gateways",
        help="Pass over gateways of CiliumEgressGatewayPolicies that are NotReady or cordoned; Cilium does not.",
    ),
]


class LintOutput(StrEnum):
    """How findings are written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    SARIF = "sarif"
    JUNIT = "junit"


class FailOn(StrEnum):
    """From which level on a finding makes the exit status 1."""

    ERROR = "error"
    WARNING = "warning"
    NEVER = "never"


@dataclass(slots=True)
class Inventory:
    """What was read: accepted values by identity, and how many objects were refused."""

    values: dict[Ref, Value]
    documents: list[Document]
    refused: int


@app.command()
def entries(
    files: Files = None,
    node: Annotated[
        str | None,
        typer.Option("--node", "-N", help="As this node's kernel holds them; default: as each gateway does."),
    ] = None,
    output: OutputAs = Output.TABLE,
    as_: As = Fidelity.EGRESSLAB,
    health_aware: HealthAware = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    lab: LabName = "default",
) -> None:
    """The map entries that policies amount to: source, destination, egress IP, gateway."""
    inventory = _inventory(files, kubeconfig, lab, context)
    engine = _engine(inventory, Settings(as_, health_aware))
    if node is not None and node not in engine.registry.nodes:
        _warn(f"Node/{node} is not among the objects; shown as any node that is no gateway")
    for problem in engine.problems():
        _warn(f"{problem.subject}: {problem.reason}: {problem.message}")
    rows = listing(engine.entries(), engine.slots(), node)
    if output is not Output.TABLE:
        write_data([row.as_dict() for row in rows], output)
    elif rows:
        typer.echo(entries_table(rows))
    else:
        typer.echo("No entries found.", err=True)
    _finish(inventory)


@app.command()
def explain(
    pod: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or NAME where it is the only one.")],
    destination: Annotated[str, typer.Argument(help="Address that the pod would send to.")],
    files: Files = None,
    output: OutputAs = Output.TABLE,
    as_: As = Fidelity.EGRESSLAB,
    health_aware: HealthAware = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    lab: LabName = "default",
) -> None:
    """Which policy decides for a pod and a destination, which lost and why, and which gateways were considered."""
    try:
        address = ip_address(destination)
    except ValueError:
        raise typer.BadParameter(f"{destination} is not an IP address", param_hint="DESTINATION") from None
    inventory = _inventory(files, kubeconfig, lab, context)
    engine = _engine(inventory, Settings(as_, health_aware))
    explanation = explain_packet(engine, _find_pod(inventory.values.values(), pod).uid, address)
    if output is Output.TABLE:
        typer.echo(explanation_text(explanation))
    else:
        write_data({**asdict(explanation), "verdict": explanation.verdict.value}, output)
    _finish(inventory)


@app.command()
def plan(
    files: Annotated[list[str], typer.Option("--filename", "-f", help="The change: file, folder or - for stdin.")],
    against: Annotated[
        list[str] | None, typer.Option("--against", help="Present state: file or folder. Without it: the running lab.")
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="The objects of the change are deleted, not applied.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Policies and gateways that the change does not name are deleted.")
    ] = False,
    output: OutputAs = Output.TABLE,
    as_: As = Fidelity.EGRESSLAB,
    health_aware: HealthAware = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    lab: LabName = "default",
) -> None:
    """What a change would add, move and remove, and which pods would change their source address."""
    present = _inventory(against, kubeconfig, lab, context)
    change = _inventory(files, None, lab)
    after = dict(present.values)
    if prune:
        for ref in [ref for ref in after if ref.kind in (Kind.POLICY, Kind.GROUP)]:
            del after[ref]
    if delete:
        for ref in change.values:
            after.pop(ref, None)
    else:
        after.update(change.values)
        described = [document.obj for document in (*present.documents, *change.documents)]
        after = {ref_of(value): value for value in with_endpoint_uids(after.values(), described)}
    result = plan_change(present.values.values(), after.values(), Settings(as_, health_aware))
    if output is Output.TABLE:
        typer.echo(plan_text(result))
    else:
        write_data(
            {
                "added": [row.as_dict() for row in result.added],
                "removed": [row.as_dict() for row in result.removed],
                "moved": [{"before": m.before.as_dict(), "after": m.after.as_dict()} for m in result.moved],
                "pods": [asdict(pod) for pod in result.pods],
                "new_problems": [asdict(p) | {"reason": p.reason.value} for p in result.new_problems],
                "solved_problems": [asdict(p) | {"reason": p.reason.value} for p in result.solved_problems],
            },
            output,
        )
    _finish(present, change)


@app.command()
def lint(
    files: Files = None,
    output: Annotated[
        LintOutput, typer.Option("--output", "-o", help="table, json, yaml, sarif or junit.")
    ] = LintOutput.TABLE,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Level from which on the exit status is 1.")
    ] = FailOn.ERROR,
    cluster_cidr: Annotated[
        list[str] | None, typer.Option("--cluster-cidr", help="A network of the cluster that no object shows.")
    ] = None,
    map_size: Annotated[int, typer.Option("--map-size", min=1, help="Entries that the map holds.")] = 16_384,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    lab: LabName = "default",
) -> None:
    """What will not work, or not as meant, found before it is applied."""
    # Imported here: only lint needs the schemas and their rules.
    from egresslab.cli.lint_reports import Placed, as_line, junit, sarif, unreadable
    from egresslab.policy.lint.findings import Level
    from egresslab.policy.lint.linter import lint as lint_objects

    try:
        networks = [ip_network(text, strict=False) for text in cluster_cidr or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cluster-cidr") from None
    documents, errors = _documents(files, kubeconfig, lab, context)
    located = lint_objects([document.obj for document in documents], cluster_networks=networks, map_size=map_size)
    placed = [unreadable(error) for error in errors]
    subjects = [_subject(document) for document in documents]
    for each in located:
        document = documents[each.index] if each.index is not None else None
        line = document.line_of(each.finding.field) if document else 0
        placed.append(Placed(each.finding, document.origin if document else None, line))
    match output:
        case LintOutput.SARIF:
            typer.echo(sarif(placed))
        case LintOutput.JUNIT:
            typer.echo(junit(placed, documents, subjects))
        case LintOutput.TABLE:
            for found in placed:
                typer.echo(as_line(found))
        case _:
            write_data([found.as_dict() for found in placed], Output(output.value))
    levels = {found.finding.rule.level for found in placed}
    failing = {FailOn.ERROR: {Level.ERROR}, FailOn.WARNING: {Level.ERROR, Level.WARNING}, FailOn.NEVER: set()}
    if errors or levels & failing[fail_on]:
        raise typer.Exit(1)


def _documents(
    files: list[str] | None, kubeconfig: Path | None, lab: str, context: str | None = None
) -> tuple[list[Document], list[PolicyError]]:
    if files:
        manifests = load(files)
        return manifests.documents, manifests.errors
    # Imported here: offline commands answer without the client and the environments.
    from egresslab.cli.cluster_objects import read_cluster
    from egresslab.cli.environment import Kind as EnvironmentName
    from egresslab.cli.environment import open_environment

    return read_cluster(kubeconfig or open_environment(EnvironmentName.NETNS, lab).kubeconfig(), context), []


def _inventory(files: list[str] | None, kubeconfig: Path | None, lab: str, context: str | None = None) -> Inventory:
    documents, errors = _documents(files, kubeconfig, lab, context)
    found = Inventory({}, documents, 0)
    for error in errors:
        _refused(found, error, "")
    for document in documents:
        try:
            value = from_kubernetes(document.obj)
        except PolicyError as error:
            _refused(found, error, f"{document.origin}:{document.line_of(error.field or '')}: ")
            continue
        if value is None:
            continue
        ref = ref_of(value)
        if ref in found.values:
            _warn(f"{document.origin}:{document.line}: {_subject(document)} was already given; this one replaces it")
        found.values[ref] = value
    joined = with_endpoint_uids(found.values.values(), (document.obj for document in documents))
    found.values = {ref_of(value): value for value in joined}
    if not files:
        from egresslab.cli.cluster_objects import carried_out, observed_choices

        twice = carried_out(documents)
        for document in documents:
            gone = ref_of_object(document.obj) if document.obj.get("metadata", {}).get("uid") in twice else None
            if gone is not None:
                found.values.pop(gone, None)
        found.values.update({choice.ref: choice for choice in observed_choices(documents)})
    return found


def _engine(inventory: Inventory, settings: Settings) -> Engine:
    engine = Engine(settings)
    engine.apply_all(Upsert(value) for value in inventory.values.values())
    return engine


def _find_pod(values: Iterable[Value], name: str) -> Pod:
    pods = [value for value in values if isinstance(value, Pod)]
    found = [pod for pod in pods if name in (str(pod), pod.name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(str(pod) for pod in found or pods)[:10])
    message = "several pods of that name" if found else "no such pod"
    raise PolicyError(message, object=f"Pod/{name}", fix=f"name one of: {known}" if known else "give pods as well")


def _subject(document: Document) -> str:
    ref = ref_of_object(document.obj)
    metadata = document.obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else ref.name if ref else "?"
    return f"{document.obj.get('kind') or 'object'}/{name}"


def _refused(inventory: Inventory, error: EgresslabError, place: str) -> None:
    inventory.refused += 1
    typer.echo(f"egresslab: {place}{error}", err=True)


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _finish(*inventories: Inventory) -> None:
    sys.stdout.flush()
    if any(inventory.refused for inventory in inventories):
        raise typer.Exit(1)
