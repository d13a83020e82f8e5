"""Addresses of pods that the API does not tell yet: what a node's network plug-ins say, until the API says it too.

A kubelet publishes a pod's addresses once its sandbox stands, and the sandbox stands once the last plug-in is content:
whoever wants entries in the kernel before a pod's first packet cannot wait for the API. A claim stands in for what the
API does not say; it never outlives the API's own word on that pod.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from egresslab.agent.chain import MIRROR, IPAddress
from egresslab.api.resources import Object
from egresslab.policy.inventory import Pod
from egresslab.policy.objects import FINISHED

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Claim:
    """A pod of node `node` has these addresses, whatever the API says so far.

    `key` is the pod's UID as its runtime knows it, or its namespace and name.
    """

    key: str
    namespace: str
    name: str
    addresses: tuple[IPAddress, ...]
    container: str = ""
    claimant: IPv4Address | None = None
    """Another node's agent that said so; None: this node's own runtime."""
    told: frozenset[IPAddress] | None = None
    """What the API said of the pod when the claim was taken up."""
    uid: str = ""
    """The pod's UID in the API, once `taken`."""
    taken: asyncio.Event = field(default_factory=asyncio.Event)


class Claims:
    """Those in force. `address_of` gives a node's InternalIP, None where it is not known; `node` is our own."""

    def __init__(self, node: str, address_of: Callable[[str], IPv4Address | None]) -> None:
        self._node = node
        self._address_of = address_of
        self._held: dict[str, Claim] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, claim: Claim) -> list[Claim]:
        """From now on, instead of what was claimed for that pod before; returns claims that it ends, of pods that had
        these addresses and never ran: they are free again, or no plug-in would have given them to another."""
        self._held.pop(claim.key, None)
        ended = [held for held in self._held.values() if not set(claim.addresses).isdisjoint(held.addresses)]
        for held in ended:
            del self._held[held.key]
        self._held[claim.key] = claim
        return ended

    def drop(self, claim: Claim) -> None:
        """No longer, unless another has taken its place."""
        if self._held.get(claim.key) is claim:
            del self._held[claim.key]

    def release(self, key: str, container: str) -> bool:
        """A sandbox is gone, and with it what was claimed for it; whether anything was."""
        claim = self._held.get(key)
        if claim is None or claim.claimant is not None or claim.container != container:
            return False
        del self._held[key]
        return True

    def forget(self, obj: Object) -> None:
        """The pod is gone from the API."""
        for key in _keys(obj):
            claim = self._held.get(key)
            if claim is not None and claim.uid == obj["metadata"]["uid"]:
                del self._held[key]

    def complete(self, obj: Object, pod: Pod) -> Pod:
        """The pod as the API says, with claimed addresses where it says none or none but old ones."""
        claim = next((self._held[key] for key in _keys(obj) if key in self._held), None)
        if claim is None or pod.node is None or pod.host_network:
            return pod
        if claim.claimant is None and pod.node != self._node:
            return pod
        if claim.claimant is not None and claim.claimant != self._address_of(pod.node):
            logger.warning("pod %s is of node %s, of which %s says nothing", pod, pod.node, claim.claimant)
            self.drop(claim)
            return pod
        told = frozenset(pod.addresses)
        if claim.told is None:
            claim.told = told
        if obj.get("status", {}).get("phase") in FINISHED or (told and told != claim.told):
            self.drop(claim)
            return pod
        claim.uid = pod.uid
        claim.taken.set()
        return replace(pod, addresses=claim.addresses)


def _keys(obj: Object) -> tuple[str, ...]:
    metadata = obj["metadata"]
    mirror = (metadata.get("annotations") or {}).get(MIRROR)
    names = (metadata["uid"], *([mirror] if mirror else ()), f"{metadata['namespace']}/{metadata['name']}")
    return tuple(names)
