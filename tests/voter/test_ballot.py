"""One promise at a time: who holds a lease, when it moves, and that it moves no more than it must. All simulated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from egresslab.datapath.values import Holder
from egresslab.voter.files import Candidate, Cause, Failback, Group, Pace

from .simulation import World

LEASE = 7
NAMES = ("a", "b", "c", "d")


def world(seed: int = 1, voters: int = 3, names: tuple[str, ...] = NAMES, **group: object) -> World:
    """Four nodes, of which the first three vote, all of them candidates in order; settled on `a`."""
    candidates = tuple(Candidate(name) for name in names)
    made = World(seed, names, voters, (Group(LEASE, "egresslab/main", candidates, **group),))  # type: ignore[arg-type]
    made.until(lambda: made.settled(LEASE), 1)
    assert made.holders(LEASE) == ["a"]
    return made


def fit(name: str, value: bool) -> Callable[[Group], Group]:
    return lambda group: replace(
        group, candidates=tuple(replace(c, fit=value) if c.node == name else c for c in group.candidates)
    )


def runs(made: World, seconds: float) -> set[tuple[str, ...]]:
    """Who held at each millisecond of a while."""
    seen = set()
    for _ in range(int(seconds * 1000)):
        made.run(0.001)
        seen.add(tuple(made.holders(LEASE)))
    return seen


@pytest.mark.parametrize("seed", range(5))
def test_a_crashed_holder_is_followed_within_the_grants_duration_and_a_little(seed: int) -> None:
    made = world(seed)
    made.run(0.1 * seed + 0.013)
    made.crash("a")
    gap = made.until(lambda: made.settled(LEASE), 1)
    assert 100 < gap < 260
    assert made.holders(LEASE) == ["b"]
    told = made.machines["d"].ballot
    assert told is not None
    last = told.tenures[LEASE].last
    assert last is not None
    assert (last.origin, last.target, last.cause) == ("a", "b", Cause.LOST)
    assert last.outage_ms == pytest.approx(gap, abs=80)


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(NAMES, 2)))
def test_a_cut_between_two_nodes_moves_nothing(one: str, other: str) -> None:
    made = world()
    made.cut(one, other, both=one < other)
    assert runs(made, 1) == {("a",)}


def test_a_holder_without_the_majority_is_silent_before_another_answers() -> None:
    made = world()
    for other in "bcd":
        made.cut("a", other)
    seen = []
    for _ in range(400):
        made.run(0.001)
        holders = made.holders(LEASE)
        if not seen or seen[-1] != holders:
            seen.append(holders)
    assert seen == [["a"], [], ["b"]]


def test_a_holder_that_a_minority_reaches_is_given_up() -> None:
    """No majority calls it lost, for one voter is dead; nevertheless it cannot hold, and another takes over."""
    made = world()
    made.kill("a")
    made.cut("a", "b")
    made.until(lambda: made.holders(LEASE) == ["b"], 2)
    made.until(lambda: made.settled(LEASE) or "a" not in made.holders(LEASE), 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_voter_moves_nothing_and_neither_does_its_return(name: str) -> None:
    made = world()
    made.kill(name)
    seen = runs(made, 1)
    made.start(name)
    assert seen | runs(made, 1) == {("a",)}
    assert len(made.moves) == 1


def test_a_paused_voter_accuses_nobody() -> None:
    made = world()
    made.pause("b", 0.6)
    assert runs(made, 1) == {("a",)}
    made.pause("c", 0.09)
    made.pause("b", 0.09)
    assert runs(made, 1) == {("a",)}
    assert len(made.moves) == 1


def test_a_voter_that_has_just_started_grants_nothing_while_an_earlier_grant_may_last() -> None:
    made = world()
    made.cut("b", "a")
    made.kill("b")
    made.start("b")
    ballot = made.machines["b"].ballot
    assert ballot is not None
    made.run(0.2)
    assert ballot.votes[LEASE].choice is None
    made.until(lambda: ballot.votes[LEASE].choice == "a", 0.2)


@pytest.mark.parametrize("cause", [Cause.UNFIT, Cause.LINK])
def test_a_planned_move_leaves_no_moment_without_a_translating_holder(cause: Cause) -> None:
    made = world()
    if cause is Cause.UNFIT:
        made.reconfigure(fit("a", False))
    else:
        made.links("a", [LEASE])
    took = 0.0
    while not made.settled(LEASE):
        made.run(0.0005)
        took += 0.5
        assert made.translating(LEASE)
        for follower in made.followed(LEASE).values():
            assert follower in made.translating(LEASE), "packets are sent where nobody translates them"
    assert made.holders(LEASE) == ["b"]
    assert took < 30
    assert not made.violations
    ballot = made.machines["c"].ballot
    assert ballot is not None
    assert ballot.tenures[LEASE].last is not None
    assert ballot.tenures[LEASE].last.cause is cause
    assert runs(made, 1) == {("b",)}


def test_nodes_that_learn_at_different_times_who_is_fit_agree_all_the_same() -> None:
    made = world()
    made.reconfigure(fit("a", False), only="a")
    made.until(lambda: made.holders(LEASE) == ["b"], 0.2)
    assert runs(made, 1) == {("b",)}
    made.reconfigure(fit("a", False))
    assert runs(made, 1) == {("b",)}


def test_nothing_is_released_without_a_successor() -> None:
    made = world(names=("a", "b", "c"))
    made.reconfigure(fit("b", False))
    made.reconfigure(fit("c", False))
    made.reconfigure(fit("a", False))
    assert runs(made, 1) == {("a",)}


def test_a_standby_without_flow_records_is_waited_for() -> None:
    made = world()
    made.reconfigure(lambda group: replace(group, candidates=tuple(replace(c, synced=False) for c in group.candidates)))
    made.reconfigure(fit("a", False))
    assert runs(made, 1) == {("a",)}
    made.reconfigure(
        lambda group: replace(group, candidates=tuple(replace(c, synced=c.node == "c") for c in group.candidates)),
        only="a",
    )
    made.until(lambda: made.holders(LEASE) == ["c"], 0.2)
    assert runs(made, 1) == {("c",)}


@pytest.mark.parametrize(("failback", "delay", "back"), [("Never", 0.0, False), ("Immediate", 0.0, True)])
def test_the_preferred_candidate_takes_over_again_where_wished(failback: str, delay: float, back: bool) -> None:
    made = world(failback=Failback(failback), failback_delay_s=delay)
    made.crash("a")
    made.until(lambda: made.settled(LEASE), 1)
    made.boot("a")
    seen = runs(made, 3)
    assert made.settled(LEASE)
    assert made.holders(LEASE) == (["a"] if back else ["b"])
    assert seen == ({("b",), ("a",), ()} if back and () in seen else {("b",), ("a",)} if back else {("b",)})


def test_delayed_failback_waits() -> None:
    made = world(failback=Failback.DELAYED, failback_delay_s=1.0)
    made.crash("a")
    made.until(lambda: made.settled(LEASE), 1)
    made.boot("a")
    assert 1000 < made.until(lambda: made.holders(LEASE) == ["a"], 3) < 2000


def test_an_unfit_holder_that_cannot_release_keeps_the_lease_for_two_seconds() -> None:
    made = world()
    made.kill("a")
    made.reconfigure(fit("a", False))
    assert runs(made, 1.5) == {("a",)}
    made.until(lambda: made.holders(LEASE) == ["b"], 2.5)


def test_voters_change_one_at_a_time_under_a_holder() -> None:
    made = world()
    for voters in (("a", "b", "c", "d"), ("b", "c", "d")):
        for name, machine in made.machines.items():
            made.configure(name, replace(machine.voting, voters=voters, generation=machine.voting.generation + 1))
            assert runs(made, 0.1) == {("a",)}
    made.crash("a")
    assert made.until(lambda: made.settled(LEASE), 1) < 260


def test_voters_that_forgot_their_epochs_learn_them_from_whoever_follows_a_later_one() -> None:
    made = world()
    for name in "bcd":
        machine = made.machines[name]
        machine.kernel.holders[LEASE] = Holder(made.addresses["d"], 40, name == "d")
    for name in NAMES:
        made.kill(name)
        made.start(name)
    made.until(lambda: made.machines["a"].kernel.leases[LEASE].epoch > 40 and made.settled(LEASE), 3)
    assert made.holders(LEASE) == ["a"]
    made.crash("a")
    assert made.until(lambda: made.settled(LEASE), 1) < 260


def test_one_voter_is_enough_where_there_is_but_one() -> None:
    made = world(voters=1)
    assert runs(made, 0.5) == {("a",)}


@pytest.mark.parametrize("pace", [Pace(10, 1, 1), Pace(200, 3, 3), Pace(1000, 1, 1)])
def test_other_paces(pace: Pace) -> None:
    made = World(3, NAMES, 3, (Group(LEASE, "egresslab/main", tuple(map(Candidate, NAMES)), pace=pace),))
    made.until(lambda: made.settled(LEASE), 8)
    made.run(1)
    made.crash(made.holders(LEASE)[0])
    assert made.until(lambda: made.settled(LEASE), 5) < pace.duration_ms * 1.2 + 60


def test_stretched_voters_say_less_count_longer_and_follow_a_crash_all_the_same() -> None:
    made = World(3, NAMES, 3, (Group(LEASE, "egresslab/main", tuple(map(Candidate, NAMES)), pace=Pace(250)),))
    for name, machine in made.machines.items():
        made.configure(name, replace(machine.voting, stretch=5))
    made.until(lambda: made.settled(LEASE), 8)
    made.run(2)
    ballot = made.machines["b"].ballot
    assert ballot is not None
    made.kill("c")
    made.run(1)
    heard = {view.node for view in ballot.council.fresh(made.clock(made.machines["b"]))}
    assert heard == {"a", "b", "c"}, "a second is not long for an emulated processor"
    made.run(1)
    assert "c" not in {view.node for view in ballot.council.fresh(made.clock(made.machines["b"]))}
    made.start("c")
    made.run(3)
    made.crash(made.holders(LEASE)[0])
    assert made.until(lambda: made.settled(LEASE), 5) < Pace(250).duration_ms * 1.2 + 5 * 60


def test_a_new_cluster_begins_with_the_first_candidate_although_others_start_sooner() -> None:
    made = World(5, NAMES, 3, (Group(LEASE, "egresslab/main", tuple(map(Candidate, NAMES))),))
    made.kill("a")
    made.machines["a"].kernel.heartbeat = 0
    made.run(1)
    assert made.holders(LEASE) == []
    made.start("a")
    made.until(lambda: made.settled(LEASE), 1)
    assert made.holders(LEASE) == ["a"]


def test_a_new_cluster_does_not_wait_for_ever() -> None:
    made = World(5, NAMES, 3, (Group(LEASE, "egresslab/main", tuple(map(Candidate, NAMES))),))
    made.kill("a")
    made.machines["a"].kernel.heartbeat = 0
    made.until(lambda: made.holders(LEASE) == ["b"], 3)


def test_a_cut_that_wanders_from_voter_to_voter_moves_nothing() -> None:
    made = world()
    seen: set[tuple[str, ...]] = set()
    for other in itertools.islice(itertools.cycle("bc"), 8):
        made.heal()
        made.cut("a", other)
        seen |= runs(made, 0.45)
    assert seen == {("a",)}
    assert made.machines["a"].kernel.leases[LEASE].epoch == 1
