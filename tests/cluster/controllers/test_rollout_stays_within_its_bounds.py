"""Rollouts played out step by step with pods that become available when they like."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egresslab.cluster.controllers.rollout import Bounds, SetState, bounds_of, next_sizes, share


@dataclass
class Set:
    """A ReplicaSet with pods that are either available or not yet; the least useful are deleted first.

    Its status, `reported`, lags behind `available`.
    """

    name: str
    age: int
    replicas: int
    available: int
    reported: int
    known_desired: int | None
    known_limit: int | None

    def state(self, current: str) -> SetState:
        return SetState(
            self.name,
            self.age,
            self.replicas,
            self.reported,
            self.name == current,
            self.known_desired,
            self.known_limit,
            pods_left=self.replicas,
        )


class World:
    """A Deployment's ReplicaSets."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.sets: list[Set] = []
        self.new_template(available=True)

    def new_template(self, *, available: bool = False) -> None:
        limit = self.bounds.desired + self.bounds.max_surge
        size = self.bounds.desired if available else 0
        number = len(self.sets)
        self.sets.append(Set(f"rs{number}", number, size, size, size, self.bounds.desired, limit))

    @property
    def current(self) -> Set:
        return self.sets[-1]

    def sizes(self) -> dict[str, int]:
        return next_sizes(self.bounds, [item.state(self.current.name) for item in self.sets])

    def apply(self, sizes: dict[str, int]) -> None:
        for item in self.sets:
            if item.name in sizes:
                item.replicas = sizes[item.name]
                item.available = min(item.available, item.replicas)
                item.known_desired = self.bounds.desired
                item.known_limit = self.bounds.desired + self.bounds.max_surge

    def total(self) -> int:
        return sum(item.replicas for item in self.sets)

    def available(self) -> int:
        return sum(item.available for item in self.sets)


@st.composite
def bounds(draw: st.DrawFn) -> Bounds:
    desired = draw(st.integers(0, 12))
    surge = draw(st.integers(0, 5))
    unavailable = min(desired, draw(st.integers(0 if surge else 1, 5)))
    return Bounds(desired, surge, unavailable)


@settings(max_examples=300, deadline=None)
@given(bounds=bounds(), seed=st.integers(0, 2**32), templates=st.integers(1, 3))
def test_a_rollout_ends_and_never_leaves_its_bounds_on_the_way(bounds: Bounds, seed: int, templates: int) -> None:
    rng = random.Random(seed)
    world = World(bounds)
    for _ in range(templates):
        world.new_template()
        for _ in range(rng.randint(0, 6)):
            step(world, rng)
    for _ in range(400):
        if not step(world, rng) and all(item.reported == item.replicas for item in world.sets):
            break
    assert {item.name: item.replicas for item in world.sets} == {
        item.name: bounds.desired if item is world.current else 0 for item in world.sets
    }


def step(world: World, rng: random.Random) -> bool:
    """Some pods become available, some of that is reported, then the controller acts once; whether it did anything."""
    for item in world.sets:
        item.available += rng.randint(0, item.replicas - item.available)
        if rng.random() < 0.5:
            item.reported = item.available
    before = world.available()
    sizes = world.sizes()
    world.apply(sizes)
    assert world.total() <= world.bounds.desired + world.bounds.max_surge
    assert world.available() >= min(before, world.bounds.desired - world.bounds.max_unavailable)
    return bool(sizes)


@settings(max_examples=300, deadline=None)
@given(bounds=bounds(), desired=st.integers(0, 12), seed=st.integers(0, 2**32))
def test_a_resize_in_the_middle_of_a_rollout_is_shared_once_and_the_rollout_still_ends(
    bounds: Bounds, desired: int, seed: int
) -> None:
    rng = random.Random(seed)
    world = World(bounds)
    world.new_template()
    for _ in range(rng.randint(0, 4)):
        step(world, rng)
    world.bounds = Bounds(desired, bounds.max_surge, min(desired, max(bounds.max_unavailable, not bounds.max_surge)))
    world.apply(world.sizes())
    used = [item for item in world.sets if item.replicas]
    assert world.total() <= desired + world.bounds.max_surge
    assert all(item.known_desired == desired for item in used)
    for _ in range(400):
        if not step(world, rng) and all(item.reported == item.replicas for item in world.sets):
            break
    assert [item.replicas for item in world.sets] == [0, desired]


def test_recreate_waits_until_the_last_old_pod_is_gone() -> None:
    bounds = Bounds(3, 0, 3, recreate=True)
    old = SetState("old", 0, 3, 3, known_desired=3, pods_left=3)
    new = SetState("new", 1, 0, 0, current=True, known_desired=3)
    assert next_sizes(bounds, [old, new]) == {"old": 0}
    assert next_sizes(bounds, [SetState("old", 0, 0, 0, known_desired=3, pods_left=1), new]) == {}
    assert next_sizes(bounds, [SetState("old", 0, 0, 0, known_desired=3), new]) == {"new": 3}


def test_a_paused_deployment_is_resized_but_not_rolled_out() -> None:
    old = SetState("old", 0, 3, 3, known_desired=3)
    new = SetState("new", 1, 0, 0, current=True, known_desired=3)
    assert next_sizes(Bounds(3, 1, 0), [old, new], paused=True) == {}
    assert next_sizes(Bounds(5, 1, 0), [old, new], paused=True) == {"old": 5}


def test_broken_old_pods_make_way_before_working_ones() -> None:
    old = [SetState("broken", 0, 2, 0, known_desired=4), SetState("working", 1, 3, 3, known_desired=4)]
    new = SetState("new", 2, 0, 0, current=True, known_desired=4)
    assert next_sizes(Bounds(4, 1, 1), [*old, new]) == {"broken": 0}


@pytest.mark.parametrize(
    ("value", "up", "expected"),
    [(2, True, 2), ("25%", True, 3), ("25%", False, 2), ("0%", True, 0), ("100%", False, 10)],
)
def test_percentages_of_ten_pods(value: int | str, up: bool, expected: int) -> None:
    assert share(value, 10, up=up) == expected


def test_a_strategy_that_allows_nothing_allows_one_unavailable_pod() -> None:
    rolling = {"maxSurge": "0%", "maxUnavailable": "1%"}
    deployment = {"spec": {"replicas": 4, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}}
    assert bounds_of(deployment) == Bounds(4, 0, 1)
