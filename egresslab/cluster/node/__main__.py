"""`python -m egresslab.cluster.node --config FILE`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from egresslab.cluster.node.config import load_config
from egresslab.cluster.node.process import prepare, run
from egresslab.errors import EgresslabError


def main() -> int:
    """Run until a signal; 1 when the configuration or the machine does not allow it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = load_config(arguments.config)
        prepare(config)
        asyncio.run(run(config))
    except EgresslabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
