"""Whether a pod may start: when what its policies say is in the kernel of its node and of those that translate for it.

Two askers, one wait. Our own kubelet publishes a pod's addresses before it asks; other runtimes ask by the chained CNI
plug-in, at a time when nobody but them knows the addresses, and tell them. A pod that no policy selects waits for
nothing, and one whose policies say `failMode: Open` is never kept from starting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ipaddress import IPv4Address

from egresslab.agent.chain import Attachment, Call
from egresslab.agent.claims import Claim, Claims
from egresslab.agent.failover import Failover
from egresslab.agent.links import PodLinks
from egresslab.agent.peers import Peers, Word
from egresslab.agent.view import ClusterView
from egresslab.api.resources import NAMESPACES
from egresslab.datapath.datapath import Datapath
from egresslab.errors import DatapathError
from egresslab.policy.entries import Slot

logger = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""How long a pod's link and entries may take."""
OPEN_PATIENCE_S = 2.0
"""The same where the policy would rather have packets leave as they are."""
KNOWN_S = 5.0
"""How long the API may take to tell this node of a pod that its kubelet is starting already."""


class Admission:
    """The gate of node `node`; `source` gives the address by which other nodes know it."""

    def __init__(
        self,
        node: str,
        view: ClusterView,
        claims: Claims,
        links: PodLinks,
        failover: Failover,
        datapath: Datapath,
        source: Callable[[], IPv4Address],
    ) -> None:
        self._node = node
        self._view = view
        self._claims = claims
        self._links = links
        self._failover = failover
        self._endpoints = datapath.endpoints
        self._namespaces: dict[str, asyncio.Event] = {}
        """Those that are waited for."""
        self.peers = Peers(source)

    def namespace_known(self, name: str) -> None:
        """The API told of it: only now is it known which policies select its pods."""
        if name in self._namespaces:
            self._namespaces.pop(name).set()

    async def admit(self, uid: str, word: Word | None = None, patience_s: float = PATIENCE_S) -> None:
        """Return when the pod may send: its link carries our program and its gateways know it too.

        `word` is for them, where the API does not tell it yet. Raises `DatapathError`.
        """
        await self._links.wait_ready(uid, patience_s)
        chosen = self._slots(uid)
        remote = {slot.gateway_ip for slot in chosen if slot.gateway not in (None, self._node)}
        # A lease may move at any moment, and whoever takes it over must know the pod as well.
        remote |= self._failover.gateways({slot.lease for slot in chosen if slot.lease is not None})
        await self.peers.wait_programmed(uid, (address for address in remote if address is not None), word)

    async def answer(self, call: Call) -> None:
        """What the chained plug-in asks. Raises `DatapathError` when a pod may not start yet."""
        attachment = call.attachment
        if attachment is None:
            return
        if call.command == "ADD" and attachment.addresses:
            await self._add(attachment)
        elif call.command == "DEL" and self._claims.release(_key(attachment), attachment.container):
            self._view.tell_again(attachment.namespace, attachment.name)

    async def take(self, word: Word, node: IPv4Address, patience_s: float) -> bool:
        """Another node's agent tells of its pod: whether the entries are in this kernel within `patience_s` seconds."""
        for address in word.addresses:
            endpoint = self._endpoints.get(address)
            if endpoint is not None and endpoint.node != node:
                logger.warning("%s of pod %s, as %s says, is another node's", address, word.uid, node)
                return False
        claim = Claim(word.uid, word.namespace, word.name, word.addresses, claimant=node)
        self._hold(claim)
        held = await self._links.wait_learnt(word.uid, patience_s)
        if not claim.taken.is_set():
            self._claims.drop(claim)
        return held

    async def _add(self, attachment: Attachment) -> None:
        namespace, name = attachment.namespace, attachment.name
        claim = Claim(_key(attachment), namespace, name, attachment.addresses, container=attachment.container)
        self._hold(claim)
        subject = f"Pod/{namespace}/{name}"
        try:
            async with asyncio.timeout(KNOWN_S):
                await self._wait_namespace(namespace)
                await claim.taken.wait()
        except TimeoutError as error:
            self._claims.drop(claim)
            raise DatapathError(
                f"the API has not told node {self._node} of it within {KNOWN_S:g} s, so its policies are not known",
                object=subject,
                fix="see whether the node's agent reaches the API server",
            ) from error
        chosen = self._slots(claim.uid)
        if not chosen:
            return
        self._links.doubt(claim.uid)
        open_ = all(slot.fail_open for slot in chosen)
        word = Word(namespace, name, claim.uid, attachment.addresses)
        try:
            await self.admit(claim.uid, word, OPEN_PATIENCE_S if open_ else PATIENCE_S)
        except DatapathError as error:
            if not open_:
                raise DatapathError(
                    f"a policy selects it, and it is {error.message}",
                    object=subject,
                    fix="see the log of its node's agent; failMode: Open lets pods start in any case",
                ) from error
            logger.warning("pod %s/%s starts all the same: %s", namespace, name, error)

    def _hold(self, claim: Claim) -> None:
        for changed in (*self._claims.hold(claim), claim):
            self._view.tell_again(changed.namespace, changed.name)

    async def _wait_namespace(self, name: str) -> None:
        if self._view.objects[NAMESPACES].get(name) is None:
            await self._namespaces.setdefault(name, asyncio.Event()).wait()

    def _slots(self, uid: str) -> set[Slot]:
        slots = self._view.engine.slots()
        return {slots[entry.slot] for entry in self._view.engine.entries_of(uid)}


def _key(attachment: Attachment) -> str:
    return attachment.uid or f"{attachment.namespace}/{attachment.name}"
