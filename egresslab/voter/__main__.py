"""Entry of the voter: `python -m egresslab.voter`, in a privileged container in its node's network namespace.

`--status` prints what the running voter reports, for people.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from egresslab.errors import EgresslabError
from egresslab.voter.process import Process
from egresslab.voter.settings import ANNOUNCER_MESSAGES, ANNOUNCER_PROBES, Settings


def main() -> int:
    arguments = _arguments()
    settings = Settings(arguments.run_dir, arguments.pin_dir)
    if arguments.announcer:
        settings = Settings(arguments.run_dir, None, ANNOUNCER_PROBES, ANNOUNCER_MESSAGES)
    if arguments.status:
        from egresslab.voter.status import show  # tables are for people; the voter itself must stay small

        return show(settings.report)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    process = Process(settings)

    def stop(*_: object) -> None:
        process.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        process.run()
    except EgresslabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m egresslab.voter", description="Vote for holders of leases.")
    parser.add_argument("--run-dir", type=Path, default=Settings().run_dir, help="where voting.json and voter.json are")
    parser.add_argument("--pin-dir", type=Path, default=Settings().pin_dir, help="where the datapath is pinned")
    parser.add_argument(
        "--announcer", action="store_true", help="another datapath has the node: count grants and carry addresses here"
    )
    parser.add_argument("--status", action="store_true", help="print what the running voter reports")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
