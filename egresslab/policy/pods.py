"""The pods that the engine knows: by identity, by node, by address, and what each one's policies amount to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from egresslab.policy.entries import Entry
from egresslab.policy.groups import GroupState
from egresslab.policy.hashing import bucket_of, fnv1a_32
from egresslab.policy.inventory import Pod
from egresslab.policy.matching import LabelIndex, pod_labels
from egresslab.policy.model import Address, Choice, Selection
from egresslab.policy.profiles import NOTHING, PolicyState, Profile

IdentityKey = tuple[str, frozenset[tuple[str, str]]]


@dataclass(slots=True, eq=False)
class Identity:
    """All pods of a namespace with the same labels; `matches` are the policies that select them, node parts aside."""

    key: IdentityKey
    namespace: str
    labels: Mapping[str, str]
    pods: dict[PodState, None] = field(default_factory=dict)
    matches: dict[PolicyState, list[Selection]] = field(default_factory=dict)
    profile: Profile | None = None
    """Of all its pods, once known; None while it depends on the node or has to be found anew."""


@dataclass(slots=True, eq=False)
class PodState:
    """One pod; `profile` is what its present entries come from."""

    pod: Pod
    identity: Identity
    profile: Profile = NOTHING
    hashed: tuple[int, int] | None = None

    def position(self, group: GroupState) -> int:
        """Where the pod stands in a group."""
        shape = group.shape
        if shape.width == 1:
            return 0
        if self.hashed is None:
            pod = self.pod
            self.hashed = fnv1a_32(pod.endpoint_uid or pod.uid), bucket_of(pod.namespace, pod.name, 1 << 32)
        return self.hashed[shape.choice is Choice.RENDEZVOUS] % shape.width


class Pods:
    """Pods by identity, node and address. An address belongs to one pod at a time, whoever claims it."""

    def __init__(self) -> None:
        self.by_uid: dict[str, PodState] = {}
        self.by_node: dict[str, dict[PodState, None]] = {}
        self.identities: dict[IdentityKey, Identity] = {}
        self.by_namespace: dict[str, dict[Identity, None]] = {}
        self.index: LabelIndex[Identity] = LabelIndex()
        self._claims: dict[Address, PodState | list[PodState]] = {}

    def add(self, pod: Pod) -> PodState:
        """Take in a pod whose UID is not known here."""
        key = pod.namespace, frozenset(pod.labels.items())
        identity = self.identities.get(key)
        if identity is None:
            identity = Identity(key, pod.namespace, pod_labels(pod.namespace, pod.labels))
            self.identities[key] = identity
            self.by_namespace.setdefault(pod.namespace, {})[identity] = None
            self.index.add(identity.labels, identity)
        state = PodState(pod, identity)
        identity.pods[state] = None
        self.by_uid[pod.uid] = state
        if pod.node is not None:
            self.by_node.setdefault(pod.node, {})[state] = None
        for address in addresses_of(pod):
            self._claim(address, state)
        return state

    def remove(self, state: PodState) -> None:
        """Forget a pod."""
        pod, identity = state.pod, state.identity
        del self.by_uid[pod.uid]
        if pod.node is not None:
            on_node = self.by_node[pod.node]
            del on_node[state]
            if not on_node:
                del self.by_node[pod.node]
        for address in addresses_of(pod):
            self._disclaim(address, state)
        del identity.pods[state]
        if not identity.pods:
            del self.identities[identity.key]
            siblings = self.by_namespace[identity.namespace]
            del siblings[identity]
            if not siblings:
                del self.by_namespace[identity.namespace]
            self.index.remove(identity.labels, identity)
            for policy in identity.matches:
                del policy.identities[identity]

    def claimants(self, pod: Pod) -> Iterator[PodState]:
        """Known pods that share an address with this one, itself included if known."""
        for address in addresses_of(pod):
            held = self._claims.get(address)
            if isinstance(held, list):
                yield from held
            elif held is not None:
                yield held

    def holder(self, address: Address) -> PodState | None:
        """The pod that an address belongs to."""
        held = self._claims.get(address)
        return held[0] if isinstance(held, list) else held

    def owned(self, state: PodState) -> Iterator[Address]:
        """The pod's addresses, but for those that belong to another by now."""
        for address in addresses_of(state.pod):
            held = self._claims[address]
            if held is state or (isinstance(held, list) and held[0] is state):
                yield address

    def entries(self, state: PodState) -> Iterator[Entry]:
        """The pod's entries, from its present profile and the present shape of its groups."""
        profile = state.profile
        if not profile.states:
            return
        for address in self.owned(state):
            for network, written, policy, excluded in profile.rows(address.version):
                number = policy.numbers[state.position(policy.group)]
                yield Entry(address, network, number, excluded, policy.policy.key, written)

    def _claim(self, address: Address, state: PodState) -> None:
        held = self._claims.get(address)
        if held is None:
            self._claims[address] = state
            return
        claims = [*held, state] if isinstance(held, list) else [held, state]
        # Lists of two sorts: the last key that differs decides, and UIDs always do.
        claims.sort(key=lambda claim: claim.pod.uid)
        claims.sort(key=lambda claim: claim.pod.created, reverse=True)
        claims.sort(key=lambda claim: claim.pod.terminating)
        self._claims[address] = claims

    def _disclaim(self, address: Address, state: PodState) -> None:
        held = self._claims[address]
        if not isinstance(held, list):
            del self._claims[address]
            return
        rest = [claim for claim in held if claim is not state]
        self._claims[address] = rest[0] if len(rest) == 1 else rest


def addresses_of(pod: Pod) -> tuple[Address, ...]:
    """The addresses that entries are made for: none for a pod on the host's network, which is no endpoint."""
    return () if pod.host_network else pod.addresses
