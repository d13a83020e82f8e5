"""`python -m egresslab.flows.tail OPTION=VALUE…` in an agent's container: its events as JSON lines, for `relay`.

The same as `egresslab-dbg observe -o json`, without the command line for people, which takes longer to import than all
this takes to run; it is started on every node for each look.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from egresslab.errors import ClusterError
from egresslab.flows.agentside import SOCKET, Observer
from egresslab.flows.filters import OPTIONS, Filter
from egresslab.flows.flow import Told, as_json
from egresslab.flows.names import DestinationNames

NUMBERS = frozenset({"to_ports", "since_ns", "until_ns"})
SINGLE = frozenset({"since_ns", "until_ns"})


def read_arguments(words: Sequence[str]) -> tuple[Filter, int | None, bool]:
    """The filter, how many of the past (None: all), and whether to follow; raises `ClusterError` for anything else."""
    found: dict[str, list[str]] = {}
    for word in words:
        option, _, value = word.partition("=")
        found.setdefault(option, []).append(value)
    follow = found.pop("--follow", None) is not None
    last = found.pop("--last", None)
    given: dict[str, object] = {}
    for field in fields(Filter):
        texts = found.pop(OPTIONS[field.name], None)
        if texts is not None:
            values = [int(text) for text in texts] if field.name in NUMBERS else texts
            given[field.name] = values[-1] if field.name in SINGLE else tuple(values)
    if found:
        raise ClusterError("no such option", object="flows", value=", ".join(found))
    return Filter(**given), int(last[-1]) if last else None, follow  # type: ignore[arg-type]


async def main(words: Sequence[str]) -> None:
    """Write what is wanted; with `--follow`, an empty line stands between the past and what comes."""
    wanted, last, follow = read_arguments(words)
    observer = Observer(Path(os.environ.get("EGRESSLAB_FLOWS_SOCKET") or SOCKET), wanted, DestinationNames())
    if not follow:
        _write(await observer.past(last))
        return
    mark = "\n"
    async for batch in observer.follow(last):
        _write(batch, mark)
        mark = ""


def _write(batch: Sequence[Told], mark: str = "") -> None:
    sys.stdout.write("".join(f"{json.dumps(as_json(told), separators=(',', ':'))}\n" for told in batch) + mark)
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:]))
    except ClusterError as error:
        sys.exit(str(error))
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
