"""The end of a release on a node: what the agent put into the kernel goes, before the agent itself does.

An agent that merely stops leaves its datapath at work, which is what an upgrade wants. Only the ConfigMap `NAME`, which
the chart brings and whoever uninstalls it changes, tells an agent that none will follow.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.agent.addresses import AssignedAddresses
from egresslab.api.connection import Api
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import CONFIGMAPS
from egresslab.api.settings import NAMESPACE
from egresslab.datapath.attachments import Attachments
from egresslab.datapath.datapath import Datapath
from egresslab.netlink import dump

logger = logging.getLogger(__name__)

NAME = "egresslab-release"
STATE, ENDING = "state", "ending"


class Farewell:
    """Follows the ConfigMap; `asked` is set while it says that the release ends."""

    def __init__(self, api: Api) -> None:
        self.asked = asyncio.Event()
        self._reflector = Reflector(
            api, CONFIGMAPS, self._take, namespace=NAMESPACE, field_selector=f"metadata.name={NAME}"
        )

    async def run(self) -> None:
        """Follow until cancelled."""
        await self._reflector.run()

    def _take(self, change: ObjectChange) -> None:
        ending = change.type is not ChangeType.DELETED and (change.object.get("data") or {}).get(STATE) == ENDING
        (self.asked.set if ending else self.asked.clear)()


async def clear_node(netlink: AsyncIPRoute, datapath: Datapath, pin_dir: Path, addresses: Path, overlay: str) -> None:
    """Take programs off every link, the tunnel device, assigned addresses and pinned maps away.

    `addresses` is the file of what was assigned. Raises what netlink raises; may be called again.
    """
    if addresses.exists():
        await AssignedAddresses(addresses, tuple).reconcile(netlink)
        addresses.unlink()
    attachments = Attachments(datapath, netlink)
    links = {link["index"]: str(link.get("ifname")) for link in await dump(netlink.link)}
    for index, name in links.items():
        if await attachments.attached(index):
            await attachments.detach(index)
        if name == overlay:
            try:
                await netlink.link("del", index=index)
            except NetlinkError as error:
                logger.info("%s is gone already: %s", overlay, error)
    Datapath.remove(pin_dir)
    logger.info("programs, maps, tunnel and addresses are off this node")
