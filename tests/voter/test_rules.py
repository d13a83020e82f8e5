"""The rules that keep two nodes from holding one lease, each with what happens without it.

The faults that a rule is for are rare, so each has its own scene: played once with the rule, when nobody may ever be
second, and once without, when somebody must be, or the scene proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from egresslab.voter import tenure, vote
from egresslab.voter.actions import Silence
from egresslab.voter.files import Candidate, Group

from . import simulation
from .simulation import World
from .test_ballot import LEASE, NAMES, fit


def world() -> World:
    made = World(2, NAMES, 3, (Group(LEASE, "egresslab/main", tuple(map(Candidate, NAMES))),))
    made.until(lambda: made.settled(LEASE), 1)
    made.run(0.5)
    return made


def the_holder_cannot_release() -> World:
    """It is unfit and its voter dead, its kernel well: voters give it up while their grants still last."""
    made = world()
    made.kill("a")
    made.reconfigure(fit("a", False))
    made.until(lambda: "b" in made.holders(LEASE), 5)
    return made


def the_voters_forget() -> World:
    """The holder is cut off and both other voters start anew, with nothing in their way but their own grants."""
    made = world()
    for name in "bcd":
        made.cut("a", name)
    for name in "bc":
        made.kill(name)
        made.start(name)
    made.until(lambda: "b" in made.holders(LEASE), 3)
    return made


def the_holder_is_unfit() -> World:
    """A planned move: nobody waits for the end of a grant."""
    made = world()
    made.reconfigure(fit("a", False))
    made.until(lambda: "b" in made.holders(LEASE), 1)
    made.run(0.3)
    return made


def the_release_comes_twice() -> World:
    """A release is heard again when the same node holds in a later epoch, of which it says nothing."""
    made = world()
    made.network.doubled = 1.0
    made.network.stragglers = 0.5
    made.reconfigure(fit("a", False))
    made.until(lambda: made.holders(LEASE) == ["b"], 1)
    made.reconfigure(fit("a", True))
    made.reconfigure(fit("b", False))
    made.until(lambda: "a" in made.holders(LEASE), 5)
    made.reconfigure(fit("b", True))
    made.run(1)
    return made


def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vote, "promise_end", lambda heard, duration_ns: 0)


def counting_from_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vote, "promise_end", lambda heard, duration_ns: heard.at_ns + duration_ns // 2)


def without_silence_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = simulation.Ballot
    monkeypatch.setattr(simulation, "Ballot", lambda name, now, silent_ns: begin(name, now, 0))


def without_silence_before_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    poll = tenure.Tenure.poll

    def speaking(*arguments: object) -> list[object]:
        return [action for action in poll(*arguments) if action != Silence(LEASE, True)]  # type: ignore[arg-type]

    monkeypatch.setattr(tenure.Tenure, "poll", speaking)


def releasing_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that frees voters from every epoch, also later ones."""
    release = vote.Vote.release

    def unbounded(self: vote.Vote, now: int, node: str, epoch: int, target: str) -> bool:
        self.released.pop(node, None)
        return release(self, now, node, max(epoch, self.epoch), target)

    monkeypatch.setattr(vote.Vote, "release", unbounded)


RULES: list[tuple[Callable[[], World], Callable[[pytest.MonkeyPatch], None]]] = [
    (the_holder_cannot_release, without_waiting),
    (the_holder_cannot_release, counting_from_too_early),
    (the_voters_forget, without_silence_at_the_start),
    (the_holder_is_unfit, without_silence_before_a_release),
    (the_release_comes_twice, releasing_for_ever),
]


@pytest.mark.parametrize("scene", dict.fromkeys(scene for scene, _ in RULES))
def test_nobody_is_second(scene: Callable[[], World]) -> None:
    assert not scene().violations


@pytest.mark.parametrize(("scene", "mistake"), RULES)
def test_without_the_rule_somebody_is(
    scene: Callable[[], World], mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    assert scene().violations
