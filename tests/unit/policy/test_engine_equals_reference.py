"""The incremental engine always knows what the plain computation says, however it got there."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egresslab.policy.engine import Engine
from egresslab.policy.entries import Change, Changes, Entry, Slot, Upsert
from egresslab.policy.model import Address, Network
from egresslab.policy.reference import Outcome, compute
from egresslab.policy.settings import Fidelity, Settings
from egresslab.policy.sources import Resolved
from tests.unit.policy.worlds import histories

Key = tuple[Address, Network]

SETTINGS = [
    Settings(buckets=8),
    Settings(buckets=8, fidelity=Fidelity.CILIUM, cilium_health_aware_gateways=True),
]


def resolved(engine: Engine) -> dict[Key, object]:
    """The engine's entries with their slots read out, comparable with the reference's."""
    slots = engine.slots()
    found: dict[Key, object] = {}
    for entry in engine.entries():
        assert (entry.source, entry.destination) not in found, "one entry for each key"
        assert entry.slot >= 1
        found[entry.source, entry.destination] = meaning(entry, slots[entry.slot])
    return found


def meaning(entry: Entry, slot: Slot) -> tuple[object, ...]:
    gateway = (
        slot.gateway,
        slot.gateway_ip,
        slot.source_v4,
        slot.source_v6,
        slot.interface,
        slot.spill_v4,
        slot.spill_v6,
    )
    return entry.policy, entry.written, entry.excluded, slot.fail_open, gateway if slot.gateway else None


def expected(outcomes: dict[Key, Outcome]) -> dict[Key, object]:
    return {key: _expected(outcome) for key, outcome in outcomes.items()}


def _expected(outcome: Outcome) -> tuple[object, ...]:
    gateway = None
    if outcome.gateway is not None:
        node, address, source = outcome.gateway
        gateway = (node, address, *Resolved._replace(source, reason=None, message="")[:5])
    return outcome.policy, outcome.written, outcome.excluded, outcome.fail_open, gateway


class Mirror:
    """What an agent would hold that only ever applies the changes it is told."""

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self.slots: dict[int, Slot] = {}

    def follow(self, changes: Changes) -> None:
        for slot in changes.slots:
            if slot.before is not None:
                assert self.slots.get(slot.before.number) == slot.before
            if slot.after is not None:
                self.slots[slot.after.number] = slot.after
        for before, after in changes.entries:
            known = after or before
            assert known is not None
            key = known.source, known.destination
            assert self.entries.get(key) == before
            if after is None:
                del self.entries[key]
            else:
                assert after.slot in self.slots, "no entry points at a slot that is not there"
                self.entries[key] = after
        for slot in changes.slots:
            if slot.after is None and slot.before is not None:
                del self.slots[slot.before.number]


@pytest.mark.parametrize("choice", SETTINGS, ids=["ours", "cilium"])
@settings(max_examples=150, deadline=None)
@given(history=histories)
def test_after_every_change(choice: Settings, history: list[Change]) -> None:
    engine, mirror = Engine(choice), Mirror()
    for change in history:
        mirror.follow(engine.apply(change))
        assert resolved(engine) == expected(compute(engine.values.values(), choice))
        assert mirror.entries == {(entry.source, entry.destination): entry for entry in engine.entries()}
        assert mirror.slots == engine.slots()
        assert [engine.count(version) for version in (4, 6)] == [
            sum(entry.source.version == version for entry in engine.entries()) for version in (4, 6)
        ]
        held = Counter(state.profile for state in engine.pods.by_uid.values() if state.profile.states)
        assert {profile: profile.pods for profile in engine.profiles()} == held, "one table for each set of policies"
        engine.problems()


@settings(max_examples=100, deadline=None)
@given(history=histories, seed=st.integers())
def test_any_order_of_arrival_ends_alike(history: list[Change], seed: int) -> None:
    straight = Engine(SETTINGS[0])
    for change in history:
        straight.apply(change)
    shuffled = [Upsert(value) for value in straight.values.values()]
    random.Random(seed).shuffle(shuffled)
    other = Engine(SETTINGS[0])
    other.apply_all(shuffled)
    assert resolved(other) == resolved(straight)
    assert other.problems() == straight.problems()


@settings(max_examples=100, deadline=None)
@given(history=histories, cut=st.integers(0, 25))
def test_a_batch_says_each_difference_once(history: list[Change], cut: int) -> None:
    engine, mirror = Engine(SETTINGS[0]), Mirror()
    for change in history[:cut]:
        mirror.follow(engine.apply(change))
    changes = engine.apply_all(history[cut:])
    keys = [((after or before).source, (after or before).destination) for before, after in changes.entries]  # type: ignore[union-attr]
    assert len(keys) == len(set(keys))
    assert all(before != after for before, after in changes.entries)
    mirror.follow(changes)
    assert mirror.entries == {(entry.source, entry.destination): entry for entry in engine.entries()}
    assert mirror.slots == engine.slots()


@settings(max_examples=50, deadline=None)
@given(history=histories)
def test_nothing_is_left_when_everything_is_gone(history: list[Change]) -> None:
    from egresslab.policy.entries import Delete

    engine, mirror = Engine(SETTINGS[0]), Mirror()
    for change in history:
        mirror.follow(engine.apply(change))
    for ref in list(engine.values):
        mirror.follow(engine.apply(Delete(ref)))
    assert not mirror.entries
    assert not mirror.slots
    assert not engine.registry.groups
    assert not engine.pods.identities


@settings(max_examples=50, deadline=None)
@given(history=histories, seed=st.integers())
def test_other_slot_numbers_mean_the_same(history: list[Change], seed: int) -> None:
    engine = Engine(SETTINGS[0])
    for change in history:
        engine.apply(change)
    before = resolved(engine)
    numbers = list(engine.slots())
    wished = random.Random(seed).sample(range(1, len(numbers) * 3 + 1), len(numbers))
    engine.renumber(dict(zip(numbers[::2], wished[::2], strict=True)))
    assert resolved(engine) == before
    assert set(wished[::2]) <= set(engine.slots())
