"""Entry of the agent: `python -m egresslab.agent`, in a privileged pod in its node's network namespace.

NODE_NAME says which node it is, EGRESSLAB_SERVICE_NETWORKS which networks are the cluster's services (comma-separated).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from pyroute2 import AsyncIPRoute

from egresslab.agent.agent import Agent, AgentConfig, networks, open_datapath
from egresslab.api.connection import connect
from egresslab.errors import EgresslabError

NICENESS = -10
DEFAULT_SERVICE_NETWORKS = "10.96.0.0/16,fd00:10:96::/112"


async def main() -> None:
    """Run until told to stop; the datapath stays as it is when the agent goes."""
    config = AgentConfig(
        node=os.environ["NODE_NAME"],
        service_networks=networks(os.environ.get("EGRESSLAB_SERVICE_NETWORKS", DEFAULT_SERVICE_NETWORKS).split(",")),
    )
    datapath = open_datapath(config.pin_dir)
    async with connect() as api, AsyncIPRoute() as netlink:
        running = asyncio.create_task(Agent(config, api, datapath, netlink).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        try:
            await running
        except asyncio.CancelledError:
            logging.info("stopped; the datapath goes on")
        finally:
            datapath.close()


def _hurry() -> None:
    """Before ordinary processes: a flow that a busy holder opens should be at its standby before the answer arrives."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    except PermissionError:
        logging.info("the agent runs with ordinary priority")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    _hurry()
    try:
        asyncio.run(main())
    except* EgresslabError as group:
        for error in group.exceptions:
            print(error, file=sys.stderr)
        sys.exit(1)
