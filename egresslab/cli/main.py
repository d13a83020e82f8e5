"""The `egresslab` command.

It shows errors that are meant for users as what is wrong and how to mend it, on stderr with exit 1 (2 for usage);
anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import sys

import typer

from egresslab.cli import environment
from egresslab.cli.doctor import doctor
from egresslab.cli.faults import app as fault
from egresslab.cli.lazy import Root
from egresslab.errors import EgresslabError

app = typer.Typer(
    name="egresslab",
    help="Teach, rehearse and run Kubernetes egress gateways.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(doctor)
app.command()(environment.up)
app.command()(environment.down)
app.command()(environment.status)
app.command()(environment.kubeconfig)
app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)(environment.kubectl)
app.add_typer(fault, name="fault")


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="egresslab")
    except EgresslabError as error:
        print(f"egresslab: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
