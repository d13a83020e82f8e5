"""Programs on links, and pods' addresses in the datapath: who is reached through which link, and who may send.

A local pod's link is found the way packets find it (`Whereabouts`), whatever made that link. A pod is `ready` once its
entries are in the kernel; until then its packets stay inside the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.agent.interfaces import DUMP_RETRY_S, NodeInterface
from egresslab.agent.whereabouts import Whereabouts
from egresslab.datapath.attachments import Attachments
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.values import Endpoint, IPAddress
from egresslab.errors import DatapathError
from egresslab.netlink import interrupted
from egresslab.policy.inventory import Pod

logger = logging.getLogger(__name__)

RETRY_S = 0.5
SEARCH_S = (0.02, 5.0)
"""First and longest pause before a pod's link is looked for again, where nothing announces that it can be found now:
neighbour tables and bridges learn in silence."""
WAITED_S = 0.1
"""The longest while somebody waits for a pod."""


class PodLinks:
    """Keeps `endpoints` equal to the cluster's pods, and a program on the link of each local one.

    `wake` is set by the owner whenever pods or links may have changed.
    """

    def __init__(
        self,
        datapath: Datapath,
        attachments: Attachments,
        netlink: AsyncIPRoute,
        turn: asyncio.Lock,
        node: str,
        complete: Callable[[IPAddress], bool],
    ) -> None:
        """`turn` is held by whoever uses `netlink`: the kernel refuses a second dump on a socket (EBUSY). `complete`
        tells whether the kernel holds all entries of an address."""
        self._complete = complete
        self.wake = asyncio.Event()
        self._turn = turn
        self._datapath = datapath
        self._attachments = attachments
        self._whereabouts = Whereabouts(netlink)
        self._node = node
        self._pause = SEARCH_S[0]
        self._search: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._local: dict[str, Pod] = {}
        self._addresses: dict[str, tuple[IPAddress, ...]] = {}
        self._owner: dict[IPAddress, str] = {}
        """Who has an address now: a pod that takes over an address may be learnt before its last owner is forgotten."""
        self._programmed: set[int] = set()
        self._doubted: set[str] = set()
        """Pods that have got another sandbox since the last look began."""
        self._done: dict[str, asyncio.Event] = {}
        self._learnt: dict[str, asyncio.Event] = {}
        """Who is waited for by other nodes' agents."""

    def learn(self, pod: Pod, node_address: IPv4Address | None) -> None:
        """A pod appeared or changed; `node_address` is the tunnel endpoint of its node."""
        moved = self._addresses.get(pod.uid) != pod.addresses
        self._forget_addresses(pod.uid, keep=pod.addresses)
        if pod.host_network or not pod.addresses:
            self._local.pop(pod.uid, None)
            return
        self._addresses[pod.uid] = pod.addresses
        self._owner.update(dict.fromkeys(pod.addresses, pod.uid))
        if pod.uid in self._learnt:
            self._learnt[pod.uid].set()
        if pod.node == self._node:
            self._local[pod.uid] = pod
            if moved:
                self.doubt(pod.uid)
            self._pause = SEARCH_S[0]
            self.wake.set()
            return
        for address in pod.addresses:
            self._datapath.endpoints.set(address, Endpoint(node=node_address))

    def forget(self, uid: str) -> None:
        """A pod is gone: its addresses lead nowhere and its flows end."""
        self._local.pop(uid, None)
        self._done.pop(uid, None)
        self._forget_addresses(uid, keep=())

    def adopt(self) -> None:
        """Take out endpoints of pods that no longer exist; to be called once all pods are learnt."""
        for address in [address for address, _ in self._datapath.endpoints.items() if address not in self._owner]:
            self._datapath.endpoints.delete(address)
            self._datapath.nat.delete_pod(address)
        self.wake.set()

    def doubt(self, uid: str) -> None:
        """What was found of the pod no longer counts: it has another sandbox, perhaps with the same address."""
        self._doubted.add(uid)
        if uid in self._done:
            self._done[uid].clear()
        self.wake.set()

    async def wait_ready(self, uid: str, timeout_s: float) -> None:
        """Wait until the pod may send; raises `DatapathError` when that takes longer."""
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._event(uid).wait()
        except TimeoutError as error:
            seen = self._missing(uid)
            raise DatapathError(f"not ready within {timeout_s:g} s: {seen}", object=f"Pod/{uid}") from error
        finally:
            self._waiting -= 1

    def _missing(self, uid: str) -> str:
        if uid not in self._local:
            return "the API has not told its addresses"
        if not all(map(self._complete, self._addresses[uid])):
            return "the policy map has no room for its entries"
        return "its link was not found"

    async def wait_learnt(self, uid: str, timeout_s: float) -> bool:
        """Whether the pod is known with its addresses, and so its entries in the kernel, within `timeout_s` seconds."""
        arrived = self._learnt.setdefault(uid, asyncio.Event())
        if uid in self._addresses:
            arrived.set()
        try:
            async with asyncio.timeout(timeout_s):
                await arrived.wait()
        except TimeoutError:
            return False
        finally:
            self._learnt.pop(uid, None)
        return True

    async def run(self) -> None:
        """Program links as pods and links come and go, until cancelled."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            try:
                async with self._turn:
                    await self._reconcile()
            except NetlinkError as error:
                if not interrupted(error):
                    raise
                asyncio.get_running_loop().call_later(DUMP_RETRY_S, self.wake.set)
            except DatapathError as error:
                # Most often a link that went away between looking and attaching.
                logger.warning("a pod's link was not programmed: %s", error)
                asyncio.get_running_loop().call_later(RETRY_S, self.wake.set)

    async def _reconcile(self) -> None:
        local = dict(self._local)
        self._doubted.clear()
        links = await self._whereabouts.find(address for pod in local.values() for address in pod.addresses)
        self._programmed &= {index for index, _ in links.values()}
        for uid, pod in local.items():
            found = {address: links[address] for address in pod.addresses if address in links}
            for address, (index, mac) in found.items():
                wanted = Endpoint(ifindex=index, mac=mac, ready=self._complete(address))
                if self._datapath.endpoints.get(address) != wanted:
                    self._datapath.endpoints.set(address, wanted)
            for index in {index for index, _ in found.values()} - self._programmed:
                await self._attachments.attach_pod(index)
                self._programmed.add(index)
            complete = len(found) == len(pod.addresses) and all(map(self._complete, found))
            if complete and uid not in self._doubted:
                self._event(uid).set()
        self._search_later(missing=any(address not in links for pod in local.values() for address in pod.addresses))

    def _search_later(self, *, missing: bool) -> None:
        if self._search is not None:
            self._search.cancel()
            self._search = None
        if not missing:
            self._pause = SEARCH_S[0]
            return
        if self._waiting:
            self._pause = min(self._pause, WAITED_S)
        self._search = asyncio.get_running_loop().call_later(self._pause, self.wake.set)
        self._pause = min(2 * self._pause, SEARCH_S[1])

    def _forget_addresses(self, uid: str, keep: tuple[IPAddress, ...]) -> None:
        for address in self._addresses.pop(uid, ()):
            if address not in keep and self._owner.get(address) == uid:
                del self._owner[address]
                self._datapath.endpoints.delete(address)
                self._datapath.nat.delete_pod(address)

    def _event(self, uid: str) -> asyncio.Event:
        return self._done.setdefault(uid, asyncio.Event())


class Wires:
    """Keeps programs on the interfaces that lead out of the node."""

    def __init__(self, attachments: Attachments) -> None:
        self._attachments = attachments
        self._programmed: dict[int, tuple[int, str | None, tuple[str, ...]]] = {}

    async def set(self, interfaces: Iterable[NodeInterface]) -> None:
        """Attach where an interface leads out, and again when what the programs were told of it is no longer so."""
        outward = [interface for interface in interfaces if interface.leads_out]
        for interface in outward:
            told = (interface.mtu, interface.mac, interface.routers)
            if self._programmed.get(interface.index) != told:
                await self._attachments.attach_wire(interface.index)
                self._programmed[interface.index] = told
                logger.info("programs attached to %s", interface.name)
        gone = self._programmed.keys() - {interface.index for interface in outward}
        for index in gone:
            del self._programmed[index]
