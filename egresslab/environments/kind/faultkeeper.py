"""Carries out the Fault objects of a lab on Kind: `python -m egresslab.environments.kind.faultkeeper --lab NAME`.

A process of whoever brought the lab up, since breaking nodes takes Docker and nothing in the cluster may have that.
`up` starts it where it does not run, `down` ends it; how it works is the same as elsewhere (`netns.faultkeeper`).
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from pathlib import Path

from egresslab.environments.netns.records import (
    ProcessRecord,
    boot_id,
    is_alive,
    kill,
    open_process,
    read_record,
    start_time,
    write_record,
)

NAME = "faultkeeper"
END_S = 5.0


def running(state: Path) -> ProcessRecord | None:
    """The process that keeps the faults of the lab whose directory this is, while it is alive."""
    record = read_record(state / f"{NAME}.json")
    return record if record is not None and is_alive(record) else None


def start(state: Path, lab: str) -> None:
    """Let it run until the lab goes; does nothing twice."""
    if running(state) is not None:
        return
    words = [sys.executable, "-m", "egresslab.environments.kind.faultkeeper", "--lab", lab]
    with (state / f"{NAME}.log").open("ab") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
        )
    began = start_time(process.pid)
    if began is not None:
        write_record(state, ProcessRecord(NAME, process.pid, began, boot_id(), words, time.time()))


def end(state: Path) -> None:
    """End it, if it runs."""
    record = read_record(state / f"{NAME}.json")
    descriptor = open_process(record) if record else None
    if descriptor is not None:
        kill([descriptor], time.monotonic() + END_S)


def main() -> None:
    """Entry."""
    from egresslab.environments.kind.environment import KindEnvironment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    KindEnvironment(parser.parse_args().lab).keep_faults()


if __name__ == "__main__":
    main()
