"""`egresslab labs open`: JupyterLab on the chapters, as the user who called, with the lab up."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from egresslab.cli.output import LabName

UP_TIMEOUT_S = 120.0


def open_(
    context: typer.Context,
    lab: LabName = "default",
    environment: Annotated[str, typer.Option("--environment", help="netns, or kubeconfig.")] = "netns",
    port: Annotated[int, typer.Option(help="Where JupyterLab listens, on loopback.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab on chapter 00, never as root for whoever called sudo; options behind -- go to JupyterLab."""
    from egresslab.lab import attachment, jupyter

    # While there may still be root: a lab that is down is brought up.
    found = attachment.attach(environment, lab, timeout_s=UP_TIMEOUT_S, say=lambda line: print(line, file=sys.stderr))
    jupyter.drop_privileges()
    start = jupyter.launch(
        lab, found.kubeconfig, jupyter.chapters_directory(), port=port, browser=browser, options=context.args
    )
    os.execve(start.command[0], list(start.command), dict(start.environment))
