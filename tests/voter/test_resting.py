"""Voters with nothing to vote on are quiet, and are all there as soon as there is something. All simulated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest

from egresslab.voter.ballot import DISTANT_VIEW_NS, LOOK_NS, RESTING_VIEW_NS, VIEW_NS
from egresslab.voter.files import MILLISECOND, Candidate, Group
from egresslab.voter.messages import Message, View

from .simulation import SECOND, Machine, World

LEASE = 7
VOTERS, NAMES = "abc", "abcd"
GROUP = Group(LEASE, "egresslab/main", tuple(map(Candidate, NAMES)))
LATE_NS = 5 * MILLISECOND
"""More than the simulation's processes are late by, and clocks that drift."""


class Recorded(World):
    """Four nodes without a group, of which three vote; remembers who spoke and who looked when."""

    def __init__(self, seed: int) -> None:
        self.spoken: dict[str, list[int]] = {name: [] for name in NAMES}
        self.looked: dict[str, list[int]] = {name: [] for name in NAMES}
        super().__init__(seed, NAMES, len(VOTERS), ())

    def _tell(self, source: str, targets: Iterable[str], message: Message) -> None:
        if isinstance(message, View):
            self.spoken[source].append(self.now)
        super()._tell(source, targets, message)

    def _turn(self, machine: Machine) -> None:
        self.looked[machine.name].append(self.now)
        super()._turn(machine)

    def vote_on(self, *groups: Group, names: str = NAMES) -> None:
        self.groups = groups or self.groups
        for name in names:
            self.configure(name, replace(self.machines[name].voting, groups=groups))

    def during(self, seconds: float) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """How long each node was silent between two views, and how long it did not look, in a while from now on."""
        begin = self.now
        self.run(seconds)
        spoken, looked = (
            {name: [b - a for a, b in pairwise([begin, *(at for at in times if at > begin)])] for name, times in found}
            for found in (self.spoken.items(), self.looked.items())
        )
        return spoken, looked


@pytest.fixture(params=range(3))
def resting(request: pytest.FixtureRequest) -> Recorded:
    made = Recorded(request.param)
    made.run(1.6 + 0.31 * request.param)
    return made


def at_rest(made: Recorded) -> None:
    spoken, looked = made.during(6)
    for name in NAMES:
        assert len(spoken[name]) in (5, 6)
        assert all(abs(gap - RESTING_VIEW_NS) < LATE_NS for gap in spoken[name][1:])
        assert max(looked[name]) < RESTING_VIEW_NS + LATE_NS
        assert len(looked[name]) < 6 * SECOND // LOOK_NS // 2


def at_work(made: Recorded, names: str = NAMES) -> None:
    spoken, looked = made.during(2)
    for name in names:
        assert max(spoken[name]) < (VIEW_NS if name in VOTERS else DISTANT_VIEW_NS) + LATE_NS
        assert max(looked[name]) < LOOK_NS + LATE_NS


def test_without_a_group_views_are_told_once_a_second(resting: Recorded) -> None:
    at_rest(resting)


def test_a_group_that_appears_is_voted_on_at_once(resting: Recorded) -> None:
    begin = resting.now
    resting.vote_on(GROUP)
    at_work(resting)
    assert resting.holders(LEASE) == ["a"]
    assert resting.settled(LEASE)
    first = min(at for at, *_ in resting.moves)
    assert first - begin < RESTING_VIEW_NS // 2


def test_a_voter_that_hears_of_a_group_that_it_does_not_know_yet_rests_no_longer(resting: Recorded) -> None:
    resting.vote_on(GROUP, names="a")
    resting.run(0.05)
    at_work(resting, VOTERS)


def test_rest_returns_when_the_last_group_goes(resting: Recorded) -> None:
    resting.vote_on(GROUP, replace(GROUP, lease=LEASE + 1, key="egresslab/second"))
    resting.run(1)
    resting.vote_on(GROUP)
    at_work(resting)
    resting.vote_on()
    resting.run(3)
    at_rest(resting)
    resting.vote_on(GROUP)
    at_work(resting)
    assert resting.settled(LEASE)
    assert not resting.violations
