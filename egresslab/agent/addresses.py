"""Puts egress IPs on this node's interfaces while it is their gateway, and takes them off again.

What is put there is written down first, in a file that outlives the agent: nothing else is ever removed, and nothing
of ours is left behind, whoever was away when the last policy went. An address that the node carries by other hands is
left to them.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
from collections.abc import Callable, Collection
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.netlink import dump
from egresslab.policy.assignments import Assignment
from egresslab.policy.model import Address
from egresslab.voter.frames import announcements

logger = logging.getLogger(__name__)

ANNOUNCE_AFTER_S = (0.0, 0.1, 1.0)
"""Neighbours may still know the gateway before us; a frame may get lost."""
RETRY_S = 1.0
IFA_F_NODAD = 0x02
"""linux/if_addr.h: usable at once. Its last carrier may still be there for a moment, and duplicate address detection
would then leave the address unusable for good."""
FOREVER = 0xFFFF_FFFF


class AssignedAddresses:
    """Keeps what this agent put on interfaces equal to what `wanted` says; set `wake` when that or they change."""

    def __init__(self, record: Path, wanted: Callable[[], Collection[Assignment]]) -> None:
        """`record` is the file that says what was put where."""
        self._record = record
        self._wanted = wanted
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; what is assigned then stays, for the datapath goes on using it."""
        # A socket of its own: the kernel refuses a second dump on one that is busy with another.
        async with AsyncIPRoute() as netlink, asyncio.TaskGroup() as announcing:
            self.wake.set()
            while True:
                await self.wake.wait()
                self.wake.clear()
                try:
                    for fresh in await self.reconcile(netlink):
                        announcing.create_task(self._announce(fresh))
                except (NetlinkError, OSError) as error:
                    logger.warning("an egress IP was not assigned or removed: %s", error)
                    asyncio.get_running_loop().call_later(RETRY_S, self.wake.set)

    async def reconcile(self, netlink: AsyncIPRoute) -> list[Assignment]:
        """Make it so; returns what was put on an interface just now. Raises what netlink raises."""
        ours, wanted = self._read(), set(self._wanted())
        links = {link.get("ifname"): link["index"] for link in await dump(netlink.link)}
        present = await self._present(netlink)
        for old in ours - wanted:
            if (old.address, links.get(old.interface)) in present:
                await self._remove(netlink, old, links[old.interface])
                present.discard((old.address, links[old.interface]))
            ours.discard(old)
            self._write(ours)
        carried = {address for address, _ in present}
        fresh = []
        for new in sorted(wanted, key=lambda item: (item.address.version, int(item.address), item.interface)):
            if new.address not in carried and new.interface in links:
                self._write(ours := ours | {new})
                if await self._add(netlink, new, links[new.interface]):
                    fresh.append(new)
                else:
                    self._write(ours := ours - {new})
        return fresh

    async def _present(self, netlink: AsyncIPRoute) -> set[tuple[Address, int]]:
        found = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for item in await dump(netlink.addr, family=family):
                found.add((ip_address(item.get("local") or item.get("address")), item["index"]))
        return found

    async def _add(self, netlink: AsyncIPRoute, new: Assignment, index: int) -> bool:
        """Put it there, alone in its network and never chosen for the node's own packets; False when somebody else has
        just done so."""
        more: dict[str, Any] = {}
        if isinstance(new.address, IPv6Address):
            more = {"flags": IFA_F_NODAD, "preferred_lft": 0, "valid_lft": FOREVER}
        try:
            await netlink.addr(
                "add", index=index, address=str(new.address), prefixlen=new.address.max_prefixlen, **more
            )
        except NetlinkError as error:
            if error.code == errno.EEXIST:
                return False
            raise
        logger.info("assigned egress IP %s to %s", new.address, new.interface)
        return True

    async def _remove(self, netlink: AsyncIPRoute, old: Assignment, index: int) -> None:
        try:
            await netlink.addr("del", index=index, address=str(old.address), prefixlen=old.address.max_prefixlen)
        except NetlinkError as error:
            if error.code not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise
        logger.info("removed egress IP %s from %s", old.address, old.interface)

    async def _announce(self, fresh: Assignment) -> None:
        began = asyncio.get_running_loop().time()
        for after in ANNOUNCE_AFTER_S:
            await asyncio.sleep(began + after - asyncio.get_running_loop().time())
            try:
                with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
                    wire.bind((fresh.interface, 0))
                    for frame in announcements(fresh.address, wire.getsockname()[4]):
                        wire.send(frame)
            except OSError as error:
                logger.warning("cannot announce %s on %s: %s", fresh.address, fresh.interface, error)
                return

    def _read(self) -> set[Assignment]:
        try:
            items = json.loads(self._record.read_text())
        except FileNotFoundError:
            return set()
        return {Assignment(ip_address(address), interface) for address, interface in items}

    def _write(self, ours: Collection[Assignment]) -> None:
        fresh = self._record.with_name(f".{self._record.name}.new")
        fresh.write_text(json.dumps(sorted([str(item.address), item.interface] for item in ours)))
        fresh.replace(self._record)
