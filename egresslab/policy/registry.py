"""Policies, gateway groups, nodes and slots, and which belongs to which. Pods are not known here.

The engine asks it to change and then looks after the pods. Slots follow groups: one number for each position and fail
mode in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from egresslab.policy.entries import Changes, Slot, SlotChange
from egresslab.policy.groups import GroupState, Surroundings
from egresslab.policy.inventory import NAMESPACE_NAME_LABEL, Node
from egresslab.policy.matching import SelectionIndex
from egresslab.policy.model import (
    Address,
    Cidr,
    Dialect,
    EgressPolicy,
    FailMode,
    GatewayGroup,
    GroupKey,
    PolicyKey,
)
from egresslab.policy.names import covers, host_cidr
from egresslab.policy.profiles import PolicyState
from egresslab.policy.settings import Fidelity, Settings
from egresslab.policy.slots import Numbers


class Registry:
    """Everything about policies and gateways; one engine has one."""

    def __init__(self, settings: Settings) -> None:
        self.policies: dict[PolicyKey, PolicyState] = {}
        self.groups: dict[GroupKey | GatewayGroup, GroupState] = {}
        self.nodes: dict[str, Node] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self.slots: dict[int, Slot] = {}
        self.index: SelectionIndex[PolicyState] = SelectionIndex()
        self._settings = settings
        self._named: dict[GroupKey, GatewayGroup] = {}
        self._by_node: dict[str, dict[GroupState, None]] = {}
        self._unhealthy: set[str] = set()
        self._active: dict[GroupKey, str] = {}
        self._domains: dict[str, tuple[Address, ...]] = {}
        self._numbers = Numbers()

    @property
    def around(self) -> Surroundings:
        """What choices look at."""
        return Surroundings(
            self.nodes,
            self._unhealthy,
            self._active,
            self._settings.cilium_health_aware_gateways,
            self._settings.buckets,
        )

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """The labels of a namespace; one that nobody told of has at least the label with its name."""
        known = self.namespaces.get(name)
        return known if known is not None else {NAMESPACE_NAME_LABEL: name}

    # Facts about nodes and choices; each answers with the groups that may decide anew.

    def set_node(self, name: str, node: Node | None) -> Iterable[GroupState]:
        """A node appeared, changed or went."""
        before = self.nodes.pop(name, None)
        if node is None:
            concerned = self._by_node.pop(name, {})
            for group in concerned:
                group.forget(name)
            return concerned | self._held_by(name)
        self.nodes[name] = node
        if before is not None and before.labels == node.labels:
            return self._by_node.get(name, {}) | self._held_by(name)
        concerned = {group: None for group in self.groups.values() if group.select(node)}
        self._by_node[name] = {group: None for group in concerned if group.has(name)}
        return concerned | self._held_by(name)

    def _held_by(self, name: str) -> dict[GroupState, None]:
        """Groups whose lease a node holds, candidate or not."""
        return {self.groups[key]: None for key, holder in self._active.items() if holder == name and key in self.groups}

    def configure(self, settings: Settings) -> Iterable[GroupState]:
        """Other settings: every group decides anew."""
        self._settings = settings
        for group in self.groups.values():
            group.judged.clear()
        return tuple(self.groups.values())

    def set_health(self, name: str, healthy: bool) -> Iterable[GroupState]:
        """A verdict on a node."""
        if healthy:
            self._unhealthy.discard(name)
        else:
            self._unhealthy.add(name)
        return self._by_node.get(name, ())

    def set_active(self, key: GroupKey, node: str | None) -> Iterable[GroupState]:
        """The voters gave a group's lease to a node, or nobody holds it."""
        if node is None:
            self._active.pop(key, None)
        else:
            self._active[key] = node
        return (self.groups[key],) if key in self.groups else ()

    def set_group(self, key: GroupKey, group: GatewayGroup | None) -> Iterable[GroupState]:
        """A gateway object appeared, changed or went; policies may name it before it exists."""
        if group is None:
            self._named.pop(key, None)
        else:
            self._named[key] = group
        state = self.groups.get(key)
        if state is None:
            state = self.groups[key] = GroupState(None, key)
        self._restart(state, group)
        return (state,)

    def set_domain(self, name: str, addresses: tuple[Address, ...]) -> list[EgressPolicy]:
        """The addresses of a name; answers with the policies that must be entered again."""
        if addresses:
            self._domains[name] = addresses
        else:
            self._domains.pop(name, None)
        return [
            state.policy
            for state in list(self.policies.values())
            if any(covers(pattern, name) for pattern in state.policy.domains)
        ]

    # Policies.

    def enter(self, policy: EgressPolicy, changes: Changes) -> PolicyState:
        """Take in a policy (a new version replaces the old one under its key) and make sure of its slots."""
        state = self.groups.get(policy.group)
        if state is None:
            state = self.groups[policy.group] = GroupState(None, policy.group)
            known = policy.group if isinstance(policy.group, GatewayGroup) else self._named.get(policy.group)
            self._restart(state, known)
            state.shape, state.positions, state.eligible = state.choose(self.around)
        state.users[policy.fail_mode] = state.users.get(policy.fail_mode, 0) + 1
        numbers = state.numbers.setdefault(policy.fail_mode, [])
        self._number(state, policy.fail_mode, changes)
        pooled = self._settings.fidelity is Fidelity.CILIUM and policy.key.dialect is Dialect.CILIUM
        entered = PolicyState(
            policy,
            state,
            numbers,
            self._destinations(policy),
            tuple(s.nodes for s in policy.selections if s.nodes is not None) if pooled else (),
        )
        state.policies[entered] = None
        self.policies[policy.key] = entered
        for selection in policy.selections:
            self.index.add(selection, entered)
        return entered

    def withdraw(self, state: PolicyState) -> None:
        """No pod is to match it any more; its slots stay until `leave`."""
        for selection in state.policy.selections:
            self.index.remove(selection, state)
        del self.policies[state.policy.key]

    def leave(self, state: PolicyState, changes: Changes) -> None:
        """Nothing points at its slots any more: give up those that nobody else uses."""
        group, mode = state.group, state.policy.fail_mode
        del group.policies[state]
        group.users[mode] -= 1
        if group.users[mode] == 0:
            del group.users[mode]
            self._drop(group.numbers.pop(mode), changes)
        self.tidy(group, changes)

    # Positions and slots.

    def place(self, group: GroupState, changes: Changes) -> None:
        """Write what the group chose into its slots. Surplus numbers stay until `tidy`."""
        for mode in group.numbers:
            self._number(group, mode, changes)

    def tidy(self, group: GroupState, changes: Changes) -> None:
        """Give up surplus numbers, and a group that neither exists nor is named any more."""
        for numbers in group.numbers.values():
            surplus = numbers[len(group.positions) :]
            del numbers[len(group.positions) :]
            self._drop(surplus, changes)
        if not group.policies and not (isinstance(group.key, GroupKey) and group.group is not None):
            for name in {name for candidates in group.candidates for _, name in candidates}:
                self._by_node[name].pop(group, None)
            self.groups.pop(group.key, None)

    def settle(self) -> None:
        """The step is over."""
        self._numbers.settle()

    def renumber(self, numbers: Mapping[int, int]) -> None:
        """Other numbers for slots; `numbers` maps old to new."""
        wished = [new for old, new in numbers.items() if old in self.slots]
        if len(set(wished)) != len(wished) or any(new < 1 for new in wished):
            raise ValueError("slot numbers must differ from each other and be 1 or more")
        taken = set(wished)
        free = (number for number in range(1, len(self.slots) + len(taken) + 1) if number not in taken)
        final = {old: numbers[old] if old in numbers else next(free) for old in sorted(self.slots)}
        for group in self.groups.values():
            for own in group.numbers.values():
                own[:] = [final[number] for number in own]
        self.slots = {final[old]: replace(slot, number=final[old]) for old, slot in self.slots.items()}
        self._numbers.reserve(set(final.values()))

    def _restart(self, state: GroupState, group: GatewayGroup | None) -> None:
        for name in {name for candidates in state.candidates for _, name in candidates}:
            self._by_node[name].pop(state, None)
        state.restart(group, self.nodes)
        for name in {name for candidates in state.candidates for _, name in candidates}:
            self._by_node.setdefault(name, {})[state] = None

    def _number(self, group: GroupState, mode: FailMode, changes: Changes) -> None:
        numbers = group.numbers[mode]
        while len(numbers) < len(group.positions):
            numbers.append(self._numbers.take())
        for number, gateway in zip(numbers, group.positions, strict=False):
            before = self.slots.get(number)
            after = group.slot(number, gateway, mode)
            if before != after:
                self.slots[number] = after
                changes.slots.append(SlotChange(before, after))

    def _drop(self, numbers: Iterable[int], changes: Changes) -> None:
        for number in numbers:
            changes.slots.append(SlotChange(self.slots.pop(number), None))
            self._numbers.release(number)

    def _destinations(self, policy: EgressPolicy) -> tuple[Cidr, ...]:
        if not policy.domains:
            return policy.destinations
        addresses = {
            address
            for name, known in self._domains.items()
            if any(covers(pattern, name) for pattern in policy.domains)
            for address in known
        }
        return policy.destinations + tuple(host_cidr(address) for address in sorted(addresses, key=_by_family))


def _by_family(address: Address) -> tuple[int, int]:
    return address.version, int(address)
