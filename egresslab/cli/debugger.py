"""`egresslab-dbg`, the debugger inside an agent's container: what this node's kernel holds, read from the kernel.

It answers to `cilium-dbg` as well, so that the commands of tutorials work as they are written.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from egresslab.cli.output import Output, OutputAs, write_data
from egresslab.errors import EgresslabError

app = typer.Typer(
    help="Look at the datapath of this node.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bpf = typer.Typer(help="What the kernel's maps hold.", no_args_is_help=True)
egress = typer.Typer(help="Egress policy entries.", no_args_is_help=True)
app.add_typer(bpf, name="bpf")
bpf.add_typer(egress, name="egress")

PinDir = Annotated[
    Path, typer.Option("--pin-dir", envvar="EGRESSLAB_PIN_DIR", help="Where the maps are pinned.", show_default=True)
]
DEFAULT_PIN_DIR = Path("/sys/fs/bpf/egresslab")


@egress.command("ls", hidden=True)
@egress.command("list")
def egress_list(output: OutputAs = Output.TABLE, pin_dir: PinDir = DEFAULT_PIN_DIR) -> None:
    """List egress policy entries."""
    from egresslab.datapath.listing import egress_rows, render_egress

    rows = egress_rows(pin_dir)
    if output is not Output.TABLE:
        write_data(rows, output)
        return
    text = render_egress(rows)
    typer.echo(text, err=not rows, nl=not rows)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except EgresslabError as error:
        print(f"egresslab-dbg: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
