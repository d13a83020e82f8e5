"""`python -m egresslab.cluster.outside --config FILE`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path

import uvloop

from egresslab.cluster.outside.process import enter_network_namespace, load_config, run
from egresslab.errors import EgresslabError

PRIORITY = -10
"""The world is another machine: whatever keeps this one's processors busy must not keep it waiting (setpriority(2))."""


def main() -> int:
    """Run until a signal; 1 when the configuration or the machine does not allow it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = load_config(arguments.config)
        if config.network_namespace is not None:
            enter_network_namespace(config.network_namespace)
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        uvloop.run(run(config))
    except EgresslabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
