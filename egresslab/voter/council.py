"""What the voters say, put together: who is alive, who is lost, who votes for whom, as far as heard lately.

Pure. A voter that is silent counts for nothing, neither way: only a majority of all voters makes a node alive, and only
a majority makes it lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from egresslab.voter.files import MILLISECOND
from egresslab.voter.messages import Choice, Seen, Target, View

LIFETIME_NS = 300 * MILLISECOND
"""For how long a voter's view counts; voters repeat theirs every 50 ms, or each second while it says nothing."""
DISTANT_LIFETIME_NS = 1500 * MILLISECOND
"""On a node that does not vote, and for what a node says of itself: such views are repeated less often."""


class Council:
    """Views of all nodes, this one's own included."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.voters: tuple[str, ...] = ()
        self.stretch = 1
        self._views: dict[str, tuple[View, int]] = {}

    @property
    def voting(self) -> bool:
        """Whether this node is a voter."""
        return self.node in self.voters

    @property
    def quorum(self) -> int:
        return len(self.voters) // 2 + 1

    def convene(self, voters: Collection[str], stretch: int = 1) -> None:
        self.voters, self.stretch = tuple(voters), stretch

    def tell(self, now: int, view: View) -> bool:
        """Take a view; whether it says anything new. An older one than the last is left out, while that lasts: a node
        that was started anew has a younger clock."""
        held = self._views.get(view.node)
        if held is not None and view.clock <= held[0].clock and now - held[1] < DISTANT_LIFETIME_NS * self.stretch:
            return False
        self._views[view.node] = view, now
        return held is None or _substance(held[0]) != _substance(view)

    def fresh(self, now: int) -> Iterator[View]:
        """The views that count, of voters only."""
        lifetime = (LIFETIME_NS if self.voting else DISTANT_LIFETIME_NS) * self.stretch
        for voter in self.voters:
            held = self._views.get(voter)
            if held is not None and now - held[1] < lifetime:
                yield held[0]

    def count(self, now: int, target: Target) -> dict[Seen, int]:
        """How many voters say what of a node."""
        found = dict.fromkeys(Seen, 0)
        for view in self.fresh(now):
            seen = view.seen.get(target)
            if seen is not None:
                found[seen] += 1
        return found

    def says(self, now: int, target: Target) -> Seen | None:
        """What a majority says, at least; None when there is no majority for anything."""
        count = self.count(now, target)
        if count[Seen.ALIVE] >= self.quorum:
            return Seen.ALIVE
        if count[Seen.ALIVE] + count[Seen.VOICELESS] >= self.quorum:
            return Seen.VOICELESS
        return Seen.LOST if count[Seen.LOST] >= self.quorum else None

    def targets(self, now: int) -> set[Target]:
        """Every node that some voter probes."""
        return {target for view in self.fresh(now) for target in view.seen}

    def votes(self, now: int, lease: int) -> list[Choice]:
        """The other voters' votes."""
        return [view.votes[lease] for view in self.fresh(now) if lease in view.votes and view.node != self.node]

    def unfit(self, now: int, node: str, lease: int) -> bool:
        """Whether a node said of itself that it cannot serve the lease at present."""
        held = self._views.get(node)
        return held is not None and now - held[1] < DISTANT_LIFETIME_NS * self.stretch and lease in held[0].unfit

    def complete(self, now: int) -> bool:
        """Whether a majority was heard of lately, whatever it said."""
        heard = [self._views[voter][1] for voter in self.voters if voter in self._views]
        return sum(now - at < DISTANT_LIFETIME_NS * self.stretch for at in heard) >= self.quorum


def _substance(view: View) -> tuple[object, ...]:
    """What decisions depend on: not the clock, nor for how long a holder has been silent."""
    holding = {lease: (item.node, item.epoch) for lease, item in view.holding.items()}
    return view.seen, view.votes, holding, view.known, view.unfit
