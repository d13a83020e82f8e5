"""Whatever happens, never two holders; and once it stops happening, exactly one, whom everybody follows.

Each storm is a few seconds of random faults from one seed. `test_rules.py` shows that the simulation sees two holders
when there are two.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from egresslab.voter.files import MILLISECOND, Candidate, Failback, Group, Pace

from .simulation import SECOND, World

LEASE = 7
CALM_S = 3.5


class Storm:
    """Faults at random moments; names, voters, order, pace and failback are random too."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed * 7919 + 1)
        pick = self.random.choice
        count = pick([3, 4, 5, 6])
        self.names = [f"n{number}" for number in range(count)]
        voters = pick([number for number in (1, 3, 3, 3, 5) if number <= count])
        candidates = self.random.sample(self.names, self.random.randrange(2, count + 1))
        group = Group(
            LEASE,
            "egresslab/main",
            tuple(Candidate(name) for name in candidates),
            pace=pick([Pace(), Pace(), Pace(20, 2, 2), Pace(100, 3, 1)]),
            failback=pick(list(Failback)),
            failback_delay_s=0.5,
        )
        self.world = World(seed, self.names, voters, (group,))
        self.world.run(1)

    def rage(self, seconds: float) -> None:
        end = self.world.now + int(seconds * SECOND)
        while self.world.now < end:
            self.world.run(self.random.uniform(0, 0.5))
            self.random.choice(self._faults())()

    def cease(self) -> None:
        """Everything is mended."""
        self.world.heal()
        for name, machine in self.world.machines.items():
            if not machine.up:
                self.world.boot(name)
            elif machine.ballot is None:
                self.world.start(name)
            self.world.links(name, [])
        self.world.reconfigure(
            lambda group: replace(group, candidates=tuple(replace(c, fit=True) for c in group.candidates))
        )
        self.world.run(CALM_S)

    def _faults(self) -> list[Callable[[], None]]:
        world, network, uniform = self.world, self.world.network, self.random.uniform
        one, other = self.random.sample(self.names, 2)
        holders = [name for name in world.holders(LEASE) if name != other]
        if holders and self.random.random() < 0.5:
            one = holders[0]  # faults of others are seldom interesting

        def isolate() -> None:
            for name in self.names:
                if name != one:
                    world.cut(one, name)

        return [
            lambda: world.cut(one, other),
            lambda: world.cut(one, other, both=False),
            isolate,
            isolate,
            isolate,
            world.heal,
            world.heal,
            lambda: setattr(network, "loss", uniform(0, 0.5)),
            lambda: setattr(network, "delay_ms", (0.1, uniform(1, 120))),
            lambda: setattr(network, "stragglers", uniform(0, 0.3)),
            lambda: setattr(network, "doubled", uniform(0, 0.5)),
            lambda: world.pause(one, uniform(0, 1.5)),
            lambda: self._kill(one),
            lambda: self._crash(one),
            lambda: self._fit(one, self.random.random() < 0.6),
            lambda: world.links(one, [LEASE] if self.random.random() < 0.5 else []),
        ]

    def _kill(self, name: str) -> None:
        machine = self.world.machines[name]
        self.world.kill(name)

        def restart() -> None:
            if machine.up and machine.ballot is None:
                self.world.start(name)

        self.world.at(self.random.uniform(0, 800) * MILLISECOND, restart)

    def _crash(self, name: str) -> None:
        up = [machine for machine in self.world.machines.values() if machine.up]
        if self.world.machines[name].up and len(up) > 2:
            self.world.crash(name)
            self.world.at(self.random.uniform(1500, 3000) * MILLISECOND, lambda: self._boot(name))

    def _boot(self, name: str) -> None:
        if not self.world.machines[name].up:
            self.world.boot(name)

    def _fit(self, name: str, fit: bool) -> None:
        """The objects change; each node learns of it in its own time."""

        def changed(group: Group) -> Group:
            return replace(
                group, candidates=tuple(replace(c, fit=fit) if c.node == name else c for c in group.candidates)
            )

        for node in self.names:
            self.world.at(
                self.random.uniform(0, 200) * MILLISECOND,
                lambda node=node: self.world.reconfigure(changed, only=node),  # type: ignore[misc]
            )


def storm(seed: int, seconds: float = 5.0) -> World:
    made = Storm(seed)
    made.rage(seconds)
    made.cease()
    return made.world


@pytest.mark.parametrize("seed", range(16))
def test_never_two_holders_and_one_when_all_is_well(seed: int) -> None:
    world = storm(seed)
    assert not world.violations
    assert world.settled(LEASE), (world.holders(LEASE), world.followed(LEASE))
