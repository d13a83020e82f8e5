"""`egresslab doctor`: what this machine can run, and the exact fix for what it lacks."""

from __future__ import annotations

from dataclasses import asdict

import typer

from egresslab.cli.output import Output, OutputAs, write_data, write_table


def doctor(output: OutputAs = Output.TABLE) -> None:
    """Say what this machine can run, and the exact fix for what it lacks; exit 1 when a lab could not run."""
    from egresslab.environments.netns.doctor import Verdict, examine, installation
    from egresslab.environments.vm import preflight

    findings = [*examine(), *preflight.optional()]
    lacking = [finding for finding in findings if finding.verdict is Verdict.MISSING]
    install = installation(findings)
    if output is Output.TABLE:
        write_table(("CHECK", "RESULT", "FOUND"), ((f.name, f.verdict, f.found) for f in findings))
        fixes = list(dict.fromkeys(finding.fix for finding in lacking if finding.fix))
        for fix in [*([install] if install else []), *fixes]:
            typer.echo(f"fix: {fix}")
        optional = installation(findings, optional=True)
        if optional and optional != install:
            typer.echo(f"optional: {optional}")
        typer.echo("this machine can run a lab" if not lacking else "this machine cannot run a lab yet")
    else:
        data = {
            "ok": not lacking,
            "install": install,
            "findings": [{**asdict(f), "verdict": f.verdict.value, "packages": list(f.packages)} for f in findings],
        }
        write_data(data, output)
    if lacking:
        raise typer.Exit(1)
