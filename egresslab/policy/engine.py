"""Incremental decisions: told of one change, it says which entries and slots change, at a cost that fits the change.

The same values in any order of arrival end in the same state (slot numbers aside); `reference.py` says plainly what
that state is. No I/O, no clock: what time brings arrives as a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from egresslab.policy.conditions import find_problems
from egresslab.policy.entries import (
    Change,
    Changes,
    Configure,
    Delete,
    Entry,
    EntryChange,
    Problem,
    Refuse,
    Slot,
    SlotChange,
)
from egresslab.policy.groups import GroupState
from egresslab.policy.identities import as_cilium_sees
from egresslab.policy.inventory import (
    ActiveChoice,
    DomainAnswer,
    Namespace,
    Node,
    NodeHealth,
    Pod,
    Ref,
    Value,
    ref_of,
)
from egresslab.policy.matching import selects
from egresslab.policy.model import Address, Dialect, EgressPolicy, GatewayGroup, Network, Selection
from egresslab.policy.pods import Identity, Pods, PodState
from egresslab.policy.profiles import NOTHING, PolicyState, Profile, build_profile
from egresslab.policy.registry import Registry
from egresslab.policy.settings import DEFAULTS, Fidelity, Settings

__all__ = ["Engine", "Settings"]

NO_LABELS: Mapping[str, str] = {}


class Engine:
    """All decisions for one cluster. One caller at a time."""

    def __init__(self, settings: Settings = DEFAULTS) -> None:
        self.settings = settings
        self.values: dict[Ref, Value] = {}
        """Everything told and not taken back, as told. Read-only for callers."""
        self.refused: dict[Ref, Refuse] = {}
        self.pods = Pods()
        self.registry = Registry(settings)
        self._count = {4: 0, 6: 0}
        self._profiles: dict[tuple[PolicyState, ...], Profile] = {}

    # What it is told.

    def apply(self, change: Change) -> Changes:
        """Take in one change."""
        changes = Changes()
        self._take(change, changes)
        self.registry.settle()
        return changes

    def apply_all(self, given: Iterable[Change]) -> Changes:
        """Take in several; the answer has each entry and slot at most once, from first state to last."""
        changes = Changes()
        for change in given:
            self._take(change, changes)
        self.registry.settle()
        return _merged(changes)

    def renumber(self, numbers: Mapping[int, int]) -> None:
        """Give slots other numbers: those that the kernel holds already, after a restart.

        `numbers` maps present to wished number, injective, none below 1; slots it leaves out get free ones.
        """
        self.registry.renumber(numbers)

    # What it knows.

    def entries(self) -> Iterator[Entry]:
        """All entries, in no particular order."""
        for state in self.pods.by_uid.values():
            yield from self.pods.entries(state)

    def entries_of(self, uid: str) -> tuple[Entry, ...]:
        """The entries of one pod."""
        state = self.pods.by_uid.get(uid)
        return tuple(self.pods.entries(state)) if state else ()

    def count(self, version: int) -> int:
        """How many entries there are of family 4 or 6."""
        return self._count[version]

    def slots(self) -> dict[int, Slot]:
        """All slots by number."""
        return dict(self.registry.slots)

    def profiles(self) -> Iterable[Profile]:
        """The tables in use: one for each set of policies that some pod is selected by."""
        return self._profiles.values()

    def problems(self) -> list[Problem]:
        """What is wrong, by policy and gateway, sorted; empty when everything does what it says."""
        profiles = self._profiles.values()
        return find_problems(self.registry, profiles, self.refused.values(), self._count, self.settings)

    # How it changes.

    def _take(self, change: Change, changes: Changes) -> None:
        if isinstance(change, Refuse):
            self.refused[change.ref] = change
            return
        if isinstance(change, Configure):
            self._configure(change.settings, changes)
            return
        ref = change.ref if isinstance(change, Delete) else ref_of(change.value)
        self.refused.pop(ref, None)
        before = self.values.get(ref)
        after = None if isinstance(change, Delete) else change.value
        if after is None:
            if before is None:
                return
            del self.values[ref]
        else:
            if before == after:
                return
            self.values[ref] = after
        self._dispatch(before, after, changes)

    def _configure(self, settings: Settings, changes: Changes) -> None:
        if (settings.fidelity, settings.buckets) != (self.settings.fidelity, self.settings.buckets):
            raise ValueError("fidelity and buckets cannot change")
        if settings != self.settings:
            self.settings = settings
            self._regroup(self.registry.configure(settings), changes)

    def _dispatch(self, before: Value | None, after: Value | None, changes: Changes) -> None:
        known = after if after is not None else before
        registry = self.registry
        match known:
            case Pod():
                self._pod(before, after, changes)
            case Namespace():
                self._namespace(known.name, after, changes)
            case Node():
                self._node(known.name, after, changes)
            case EgressPolicy():
                self._policy(self._read(known), after is not None, changes)
            case GatewayGroup():
                assert known.key is not None  # it has a ref
                self._regroup(registry.set_group(known.key, known if after else None), changes)
            case NodeHealth():
                self._regroup(registry.set_health(known.node, after is None or known.healthy), changes)
            case ActiveChoice():
                self._regroup(registry.set_active(known.group, known.node if after else None), changes)
            case DomainAnswer():
                for policy in registry.set_domain(known.name, known.addresses if after else ()):
                    self._policy(policy, True, changes)

    def _read(self, policy: EgressPolicy) -> EgressPolicy:
        cilium = self.settings.fidelity is Fidelity.CILIUM and policy.key.dialect is Dialect.CILIUM
        return as_cilium_sees(policy) if cilium else policy

    def _pod(self, before: Value | None, after: Value | None, changes: Changes) -> None:
        concerned = dict.fromkeys(
            state for pod in (before, after) if isinstance(pod, Pod) for state in self.pods.claimants(pod)
        )
        known = self.pods.by_uid[before.uid] if isinstance(before, Pod) else None
        if known is not None:
            concerned[known] = None
        old = self._entries_of(concerned)
        if known is not None:
            del concerned[known]
            self._set_profile(known, NOTHING)
            self.pods.remove(known)
        if isinstance(after, Pod):
            state = self.pods.add(after)
            if len(state.identity.pods) == 1:
                self._match(state.identity)
            self._set_profile(state, self._profile_of(state))
            concerned[state] = None
        self._record(old, self._entries_of(concerned), changes)

    def _namespace(self, name: str, after: Value | None, changes: Changes) -> None:
        if isinstance(after, Namespace):
            self.registry.namespaces[name] = after.labels
        else:
            self.registry.namespaces.pop(name, None)
        touched = [identity for identity in self.pods.by_namespace.get(name, ()) if self._match(identity)]
        self._reprofile(touched, changes)

    def _node(self, name: str, after: Value | None, changes: Changes) -> None:
        before = self.registry.nodes.get(name)
        node = after if isinstance(after, Node) else None
        self._regroup(self.registry.set_node(name, node), changes)
        if (before.labels if before else None) != (node.labels if node else None):
            pods = [state for state in self.pods.by_node.get(name, ()) if state.identity.profile is None]
            self._reprofile_pods(pods, changes)

    def _policy(self, policy: EgressPolicy, present: bool, changes: Changes) -> None:
        registry = self.registry
        touched: dict[Identity, None] = {}
        old = registry.policies.get(policy.key)
        if old is not None:
            registry.withdraw(old)
            for identity in old.identities:
                del identity.matches[old]
                touched[identity] = None
        if present:
            new = registry.enter(policy, changes)
            for selection in policy.selections:
                for identity in self.pods.index.candidates(selection):
                    if selects(selection, identity.labels, self._namespace_labels(identity)):
                        identity.matches.setdefault(new, []).append(selection)
                        new.identities[identity] = None
                        touched[identity] = None
        self._reprofile(touched, changes)
        if old is not None:
            registry.leave(old, changes)

    def _regroup(self, groups: Iterable[GroupState], changes: Changes) -> None:
        """Let groups choose anew; pods are looked at only where the way they are shared out changes."""
        for group in list(groups):
            shape, positions, eligible = group.choose(self.registry.around)
            moved: dict[PodState, None] = {}
            if shape != group.shape:
                moved = {
                    pod: None for policy in group.policies for identity in policy.identities for pod in identity.pods
                }
            old = self._entries_of(moved)
            group.shape, group.positions, group.eligible = shape, positions, eligible
            self.registry.place(group, changes)
            self._record(old, self._entries_of(moved), changes)
            self.registry.tidy(group, changes)

    # Pods and their profiles.

    def _namespace_labels(self, identity: Identity) -> Mapping[str, str]:
        return self.registry.namespace_labels(identity.namespace)

    def _match(self, identity: Identity) -> bool:
        """Find the policies that select an identity, node parts aside; whether that changed."""
        matches: dict[PolicyState, list[Selection]] = {}
        for selection, policy in self.registry.index.matching(identity.labels, self._namespace_labels(identity)):
            matches.setdefault(policy, []).append(selection)
        if matches == identity.matches:
            return False
        for policy in identity.matches:
            del policy.identities[identity]
        for policy in matches:
            policy.identities[identity] = None
        identity.matches = matches
        return True

    def _profile_of(self, state: PodState) -> Profile:
        identity = state.identity
        if state.pod.host_network:
            return NOTHING
        if identity.profile is not None:
            if identity.profile.states:
                # Remembered also while no pod had it: it was forgotten then, and maybe built anew for another identity.
                identity.profile = self._profiles.setdefault(identity.profile.states, identity.profile)
            return identity.profile
        node = self.registry.nodes.get(state.pod.node) if state.pod.node is not None else None
        labels = node.labels if node is not None else NO_LABELS
        policies = [policy for policy, selections in identity.matches.items() if policy.applies(selections, labels)]
        policies.sort(key=lambda policy: policy.policy.precedence)
        key = tuple(policies)
        profile = self._profiles.get(key) if key else NOTHING
        if profile is None:
            profile = self._profiles[key] = build_profile(key)
        if not any(policy.depends_on_node(selections) for policy, selections in identity.matches.items()):
            identity.profile = profile
        return profile

    def _set_profile(self, state: PodState, profile: Profile) -> None:
        old, state.profile = state.profile, profile
        if profile.states:
            profile.pods += 1
        if old.states:
            old.pods -= 1
            if old.pods == 0:
                del self._profiles[old.states]

    def _reprofile(self, identities: Iterable[Identity], changes: Changes) -> None:
        known = list(identities)
        for identity in known:
            identity.profile = None
        self._reprofile_pods([pod for identity in known for pod in identity.pods], changes)

    def _reprofile_pods(self, pods: Iterable[PodState], changes: Changes) -> None:
        for state in pods:
            profile = self._profile_of(state)
            if profile is not state.profile:
                old = list(self.pods.entries(state))
                self._set_profile(state, profile)
                self._record(old, list(self.pods.entries(state)), changes)

    # Differences.

    def _entries_of(self, pods: Iterable[PodState]) -> list[Entry]:
        return [entry for state in pods for entry in self.pods.entries(state)]

    def _record(self, old: list[Entry], new: list[Entry], changes: Changes) -> None:
        if old == new:
            return
        for version in (4, 6):
            self._count[version] += sum(e.source.version == version for e in new)
            self._count[version] -= sum(e.source.version == version for e in old)
        if not old:
            changes.entries.extend(EntryChange(None, entry) for entry in new)
            return
        before = {(entry.source, entry.destination): entry for entry in old}
        for entry in new:
            was = before.pop((entry.source, entry.destination), None)
            if was != entry:
                changes.entries.append(EntryChange(was, entry))
        changes.entries.extend(EntryChange(entry, None) for entry in before.values())


def _merged(changes: Changes) -> Changes:
    """Each entry and slot once, from its first state to its last; what ends as it began is left out."""
    entries: dict[tuple[Address, Network], EntryChange] = {}
    for change in changes.entries:
        known = change.after or change.before
        assert known is not None
        key = known.source, known.destination
        first = entries.pop(key, change)
        if first.before != change.after:
            entries[key] = EntryChange(first.before, change.after)
    slots: dict[int, SlotChange] = {}
    for moved in changes.slots:
        slot = moved.after or moved.before
        assert slot is not None
        start = slots.pop(slot.number, moved)
        if start.before != moved.after:
            slots[slot.number] = SlotChange(start.before, moved.after)
    return Changes(list(entries.values()), list(slots.values()))
