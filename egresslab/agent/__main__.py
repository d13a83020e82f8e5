"""Entry of the agent: `python -m egresslab.agent`, in a privileged pod in its node's network namespace.

NODE_NAME says which node it is, EGRESSLAB_SERVICE_NETWORKS which networks are the cluster's services (comma-separated),
EGRESSLAB_OVERLAY_PORT the tunnel's UDP port, EGRESSLAB_UNDERLAY_MTU the bytes of a packet between nodes. EGRESSLAB_GATE
is `socket` where the kubelet asks before it starts a pod (this project's does), `chain` where the container runtime
does, by the CNI plug-in that the agent puts into EGRESSLAB_CNI_PROGRAMS and, last, into the first network configuration
in EGRESSLAB_CNI_CONFIGURATIONS (directories of the node); otherwise `none`, which takes that plug-in away.
EGRESSLAB_TUNNEL is `programs`, or `device` to have every packet between nodes take the overlay device, where captures
show it.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    # Importing makes much and leaves no garbage: looking for some took a seventh of the time.
    gc.disable()

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import AsyncIPRoute

from egresslab.agent.agent import OVERLAY, UNDERLAY_MTU, Agent, AgentConfig, Gate, networks, open_datapath
from egresslab.agent.farewell import Farewell, clear_node
from egresslab.agent.hostplugin import HostPlugin, take_away
from egresslab.api.connection import connect
from egresslab.datapath.attachments import OVERLAY_PORT
from egresslab.errors import EgresslabError

NICENESS = -10
DEFAULT_SERVICE_NETWORKS = "10.96.0.0/16,fd00:10:96::/112"


async def main() -> None:
    """Run until told to stop; the datapath stays as it is when the agent goes."""
    config = AgentConfig(
        node=os.environ["NODE_NAME"],
        service_networks=networks(os.environ.get("EGRESSLAB_SERVICE_NETWORKS", DEFAULT_SERVICE_NETWORKS).split(",")),
        chained=_chained(),
        gate=Gate(os.environ.get("EGRESSLAB_GATE", Gate.SOCKET)),
        overlay_port=int(os.environ.get("EGRESSLAB_OVERLAY_PORT", OVERLAY_PORT)),
        underlay_mtu=int(os.environ.get("EGRESSLAB_UNDERLAY_MTU", UNDERLAY_MTU)),
        stretch=int(os.environ.get("EGRESSLAB_STRETCH", 1)),
        tunnel_device=os.environ.get("EGRESSLAB_TUNNEL", "programs") == "device",
    )
    datapath = open_datapath(config.pin_dir)
    async with connect() as api, AsyncIPRoute() as netlink:
        farewell = Farewell(api)
        loop = asyncio.get_running_loop()
        agent = Agent(config, api, datapath, netlink)
        working = asyncio.create_task(_until_asked(agent, farewell))
        loop.add_signal_handler(signal.SIGTERM, working.cancel)
        try:
            await working
            config.ready_file.unlink(missing_ok=True)
            if config.chained is not None:
                take_away(config.chained, agent.runtime)
            await clear_node(netlink, datapath, config.pin_dir, config.addresses_file, OVERLAY)
            # A container that ended would be started again; whoever asked sees that nobody is ready, and ends this pod.
            stopped = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, stopped.set)
            await stopped.wait()
        except asyncio.CancelledError:
            logging.info("stopped; the datapath goes on")
        finally:
            datapath.close()


def _chained() -> HostPlugin | None:
    """The CNI plug-in on this node, where directories for it are given."""
    configurations, programs = (os.environ.get(f"EGRESSLAB_CNI_{name}") for name in ("CONFIGURATIONS", "PROGRAMS"))
    return HostPlugin(Path(configurations), Path(programs)) if configurations and programs else None


async def _until_asked(agent: Agent, farewell: Farewell) -> None:
    """Work until the release ends."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(agent.run()), group.create_task(farewell.run())]
        await farewell.asked.wait()
        for task in tasks:
            task.cancel()


def _each(group: BaseExceptionGroup[EgresslabError]) -> Iterator[EgresslabError]:
    """The errors of a group and of groups within it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error


def _hurry() -> None:
    """Before ordinary processes: a flow that a busy holder opens should be at its standby before the answer arrives."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    except PermissionError:
        logging.info("the agent runs with ordinary priority")


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    _hurry()
    try:
        asyncio.run(main())
    except* EgresslabError as group:
        for error in _each(group):
            print(error, file=sys.stderr)
        sys.exit(1)
