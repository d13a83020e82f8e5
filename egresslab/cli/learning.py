"""`egresslab labs progress | goto | reset`: for learners who come back, who are stuck, or who want to begin again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from egresslab.cli.output import LabName, Output, OutputAs, write_data, write_table
from egresslab.errors import EnvironmentFailure, LabError

Kind = Annotated[str, typer.Option("--environment", help="netns, or kubeconfig for the cluster of $KUBECONFIG.")]


def progress(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]…", help="Progress files of learners, or folders of them; default: your own."),
    ] = None,
    output: OutputAs = Output.TABLE,
) -> None:
    """Show how far you are; over the files of several learners, which checks fail most and which help is taken."""
    from egresslab.lab import locations, standing
    from egresslab.lab.progress import Progress

    if files:
        learners = [Progress(path) for given in files for path in _progress_files(given)]
        hard = standing.difficulties(learners)
        if output is not Output.TABLE:
            write_data({"learners": len(learners), "checks": [one.to_json() for one in hard]}, output)
            return
        write_table(
            ("CHAPTER", "CHECK", "TRIED", "PASSED", "AT ONCE", "FAILED FIRST", "FAILURES", "HINTS", "SOLUTIONS"),
            (
                (
                    *(one.chapter, one.check, one.learners, one.passed, one.at_once),
                    *(f"{one.failed_first:.0%}", one.failures, one.hints, one.shown),
                )
                for one in hard
            ),
        )
        typer.echo(f"{len(learners)} learners, {len(hard)} checks; the hardest first")
        return
    own = Progress.default()
    found = standing.standings(own, standing.all_contents(locations.home()))
    if output is not Output.TABLE:
        write_data({"file": str(own.path), "chapters": [one.to_json() for one in found]}, output)
        return
    shown = standing.table(found)
    write_table([name.upper() for name in shown.header], shown.rows)
    typer.echo(f"{sum(one.done for one in found)} of {len(found)} chapters done; kept in {own.path}")


def _progress_files(given: Path) -> list[Path]:
    if given.is_dir():
        return sorted(given.rglob("*.jsonl"))
    if not given.is_file():
        raise LabError("there is no such file", object="progress", value=str(given))
    return [given]


def goto(
    chapter: Annotated[str, typer.Argument(help="Number or id of the chapter to go to.")],
    lab: LabName = "default",
    environment: Kind = "netns",
    everything: Annotated[bool, typer.Option("--all", help="Run chapters too that are passed already.")] = False,
) -> None:
    """Bring the lab to the state before a chapter: clean it, and run the solutions of earlier ones not done yet."""
    from egresslab.lab import chapters, standing
    from egresslab.lab.progress import Progress, state_directory
    from egresslab.lab.runner import console
    from egresslab.lab.runner.judge import Result
    from egresslab.lab.runner.suite import Suite

    home = chapters.home()
    [target] = chapters.discover(home, [chapter])[:1]
    own = Progress.default()
    known = {one.chapter: one for one in standing.all_contents(home)}
    stands = standing.standings(own, known.values())
    done = {one.chapter for one in stands if (one.done or one.replayed) and not everything}
    before = [one for one in chapters.discover(home) if one.id < target.id]
    todo = [one for one in before if one.id not in done and not one.lacking(environment)]
    for skipped in (one for one in before if one.lacking(environment)):
        typer.echo(f"{skipped.id} is left out: {skipped.lacking(environment)}", err=True)
    reset(lab, environment)
    if todo:
        plan = Suite(todo, environment, lab, state_directory() / "goto", red=False)
        code, runs = console.perform(plan)
        for run in runs:
            if run.result is Result.PASSED:
                for check in known[run.chapter.id].checks:
                    own.record(standing.REPLAYED, run.chapter.id, check=check)
        if code:
            raise typer.Exit(code)
    typer.echo(f"ready for {target.id}: open {target.path}")


def reset(
    lab: LabName = "default",
    environment: Kind = "netns",
    hard: Annotated[bool, typer.Option("--hard", help="Take the lab down and bring it up again; needs root.")] = False,
) -> None:
    """Undo whatever a participant did to a lab: objects, labels, taints, cordons, the firewall's list."""
    from egresslab.lab import attachment
    from egresslab.lab.client import Client
    from egresslab.lab.reset import reset as undo

    if hard:
        if environment == attachment.OUTSIDE_CLUSTER:
            raise EnvironmentFailure("is not ours to make anew", object="the cluster of KUBECONFIG")
        attachment.down(environment, lab)
    found = attachment.attach(environment, lab, timeout_s=120, say=lambda line: print(line, file=sys.stderr))
    client = Client(found.kubeconfig)
    try:
        made = undo(client)
    finally:
        client.close()
    for name in made.undone:
        typer.echo(f"removed {name}")
    typer.echo(f"lab {lab} is as it was ({made.seconds:.1f} s)")
