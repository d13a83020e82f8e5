"""One lease, as one voter votes: to whom it grants, in which epoch, and when it may change its mind.

The promise is the whole of fencing. A grant that went out lasts until T after the answer whose clock it echoes; before
that moment is certainly over, or the holder said that it has fallen silent, no other candidate gets a grant. Epochs
fence nothing: they order holders, so that nobody follows an earlier one, and they grow whenever the choice changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from egresslab.datapath.probe import GrantRequest
from egresslab.voter.council import Council
from egresslab.voter.files import MILLISECOND, Candidate, Group
from egresslab.voter.messages import Choice, Seen, Target
from egresslab.voter.probing import Heard

VOICELESS_NS = 2_000 * MILLISECOND
"""How long an unfit holder whose voter process is dead, and so cannot release, keeps the lease."""
FIRST_NS = 2_000 * MILLISECOND
"""How long a voter that knows of no holder, ever, waits for candidates that are preferred and not yet heard of: a
cluster that has just been made begins with the first of each group, whichever node was quickest."""
WISH_NS = 1_000 * MILLISECOND
"""How long the successor that a holder named when it released is preferred."""


class Evidence(NamedTuple):
    """A node was seen to hold the lease at a moment of this node's clock."""

    node: str
    epoch: int
    at_ns: int


def promise_end(heard: Heard, duration_ns: int) -> int:
    """When a grant that echoes this answer has ended for certain, by this node's clock. Clocks run alike within a part
    in 64; the two milliseconds are for the rounding of everything."""
    return heard.at_ns + duration_ns + duration_ns // 64 + 2 * MILLISECOND


class Candidates:
    """A group's candidates as they can be judged at a moment, for voters and holders alike."""

    def __init__(self, group: Group, council: Council) -> None:
        self.group = group
        self.council = council
        self.by_name = {candidate.node: candidate for candidate in group.candidates}

    def target(self, node: str) -> Target:
        return Target(node, self.group.pace)

    def fit(self, now: int, node: str) -> bool:
        """By the objects, and by what the node says of its own links."""
        candidate: Candidate | None = self.by_name.get(node)
        return candidate is not None and candidate.fit and not self.council.unfit(now, node, self.group.lease)

    def says(self, now: int, node: str) -> Seen | None:
        return self.council.says(now, self.target(node))

    def electable(self, now: int) -> list[str]:
        """Who could take the lease now, in order."""
        return [name for name in self.by_name if self.fit(now, name) and self.says(now, name) is Seen.ALIVE]


@dataclass(slots=True)
class Vote:
    """A voter's vote for one lease. It outlives changes of the group, and the group itself: a promise is a promise."""

    candidates: Candidates
    silent_until_ns: int
    """A voter that has just started does not know what it has promised."""
    choice: str | None = None
    epoch: int = 0
    cast_ns: int = 0
    ends_ns: int = 0
    """When what was granted to `choice` has ended for certain."""
    wanted: str | None = None
    evidence: Evidence | None = None
    seen_here: Evidence | None = None
    held_ns: dict[str, int] = field(default_factory=dict)
    """For each node, when it was last seen to hold."""
    released: dict[str, int] = field(default_factory=dict)
    wish: tuple[str, int] | None = None
    epochs: dict[str, int] = field(default_factory=dict)
    """For each node, the greatest epoch in which it was voted for or held, as far as heard."""
    known: int = 0
    """The greatest epoch of all."""
    outdated_ns: int | None = None
    """Since when it is known that nodes would refuse the holder for its epoch."""
    voiceless_ns: int | None = None

    @property
    def lease(self) -> int:
        return self.candidates.group.lease

    @property
    def duration_ns(self) -> int:
        return self.candidates.group.pace.duration_ns

    # What is heard

    def note(self, node: str, epoch: int) -> None:
        """Somebody votes for the node, or it holds or held, in that epoch."""
        self.epochs[node] = max(epoch, self.epochs.get(node, 0))
        self.known = max(self.known, epoch)

    def note_known(self, now: int, epoch: int) -> None:
        """Some node has met that epoch, and refuses what is smaller."""
        self.known = max(self.known, epoch)
        if self.outdated_ns is None and epoch > self.epoch:
            self.outdated_ns = now

    def witness(self, node: str, epoch: int, at_ns: int, *, seen_here: bool = False) -> bool:
        """A node holds, or held at `at_ns`; whether that is news. `seen_here`: it answered this node so. Only that is
        passed on, or two voters could keep a rumour alive between them."""
        self.note(node, epoch)
        if self.released.get(node, 0) >= epoch:
            return False
        self.held_ns[node] = max(at_ns, self.held_ns.get(node, at_ns))
        if seen_here:
            self.seen_here = Evidence(node, epoch, at_ns)
        held = self.evidence
        if held is not None and (held.node, held.epoch) == (node, epoch):
            self.evidence = Evidence(node, epoch, max(at_ns, held.at_ns))
            return False
        if held is None or epoch > held.epoch or at_ns - held.at_ns > 2 * self.duration_ns:
            self.evidence = Evidence(node, epoch, at_ns)
            return True
        return False

    def release(self, now: int, node: str, epoch: int, target: str) -> bool:
        """The node has fallen silent for good in all epochs up to this; whether that is news."""
        self.note(node, epoch)
        if self.released.get(node, 0) >= epoch:
            return False
        self.released[node] = epoch
        self.wish = target, now + WISH_NS
        if self.evidence is not None and self.evidence.node == node and self.evidence.epoch <= epoch:
            self.evidence = None
        return True

    # What follows from it

    def decide(self, now: int, others: Iterable[Choice]) -> bool:
        """Choose; whether the vote has changed. `others`: how the other voters vote, as far as heard lately."""
        others = list(others)
        for vote in others:
            self.note(*vote)
        if now < self.silent_until_ns:
            return False
        self.wanted = self._want(now, others)
        if self.wanted is None:
            return False
        if self.wanted != self.choice or self._freed:
            if now < self.ends_ns and not self._freed:
                return False
            self.epoch = self._next_epoch(now, self.wanted)
            self.choice, self.cast_ns, self.ends_ns, self.outdated_ns = self.wanted, now, 0, None
            return True
        if self._failed(now):
            self.cast_ns = now
        before = self.epoch
        self.epoch = max(self.epoch, self.epochs.get(self.choice, 0))
        if self.outdated_ns is not None and now - self.outdated_ns > 2 * self.duration_ns:
            if self.known > self.epoch:
                self.epoch = self.known + 1
            self.outdated_ns = None
        self.note(self.choice, self.epoch)
        return self.epoch != before

    def grant(self, now: int, node: str, heard: Heard | None) -> GrantRequest:
        """What a probe to the node says about this lease: a grant, or merely the question who holds it. To be called
        only for a probe that is sent, for this is where promises are made."""
        granted = (
            node == self.choice == self.wanted and now >= self.silent_until_ns and heard is not None and not self._freed
        )
        if not granted:
            return GrantRequest(self.lease, 0, 0)
        assert heard is not None
        self.ends_ns = max(self.ends_ns, promise_end(heard, self.duration_ns))
        return GrantRequest(self.lease, self.duration_ns // MILLISECOND, self.epoch)

    @property
    def waiting(self) -> bool:
        """For the end of what was promised to another, or for anybody to vote for."""
        return self.wanted != self.choice

    def wake_ns(self, now: int) -> int | None:
        """When time alone may change the vote, before the next tick."""
        waits = [self.silent_until_ns]
        if self.wanted is not None and self.wanted != self.choice:
            waits.append(self.ends_ns)
        return min((wait for wait in waits if wait > now), default=None)

    def holder(self, now: int) -> Evidence | None:
        """Who holds the lease, as far as was seen lately."""
        held = self.evidence
        return held if held is not None and now - held.at_ns <= 2 * self.duration_ns else None

    @property
    def _freed(self) -> bool:
        return self.choice is not None and self.released.get(self.choice, 0) >= self.epoch

    def _failed(self, now: int) -> bool:
        """The vote was cast long enough ago for a majority to have followed, had it wanted to."""
        return now - self.cast_ns > 2 * self.duration_ns

    def _want(self, now: int, others: list[Choice]) -> str | None:
        held = self.holder(now)
        if held is not None:
            if self._lost(now, held):
                self.evidence = None  # it must show anew that it holds
            elif self.candidates.fit(now, held.node) or not self._voiceless(now, held.node):
                return held.node
        electable = self.candidates.electable(now)
        if not electable or self._early(now, electable[0]):
            return None if self._freed else self.choice
        if self.wish is not None and now < self.wish[1] and self.wish[0] in electable:
            return self.wish[0]
        failed = self._failed(now)
        if self.choice in electable and not failed and not self._freed:
            return self.choice
        followed = [vote for vote in others if vote.node in electable and (failed or vote.epoch > self.epoch)]
        if failed and self.choice in electable and not self._freed:
            assert self.choice is not None
            followed.append(Choice(self.choice, self.epoch))
        if followed:
            return max(followed, key=lambda vote: (vote.epoch, -electable.index(vote.node))).node
        return electable[0]

    def _lost(self, now: int, held: Evidence) -> bool:
        """A majority calls the holder lost, and nobody has heard it say that it holds since the first miss of three, or
        however many. Else one cut that heals while the next one opens would be taken for a crash."""
        pace = self.candidates.group.pace
        quiet = now - held.at_ns > (pace.failures - 1) * pace.interval_ns + pace.interval_ns // 2
        return quiet and self.candidates.says(now, held.node) is Seen.LOST

    def _early(self, now: int, first: str) -> bool:
        if self.known or now - self.silent_until_ns > FIRST_NS:
            return False
        preferred = list(self.candidates.by_name)[: list(self.candidates.by_name).index(first)]
        return any(
            self.candidates.fit(now, name) and self.candidates.says(now, name) is not Seen.LOST for name in preferred
        )

    def _voiceless(self, now: int, node: str) -> bool:
        """Whether nobody on an unfit holder can release the lease, for long enough."""
        if self.candidates.says(now, node) is not Seen.VOICELESS:
            self.voiceless_ns = None
            return False
        self.voiceless_ns = self.voiceless_ns or now
        return now - self.voiceless_ns > VOICELESS_NS

    def _next_epoch(self, now: int, node: str) -> int:
        """Greater than any that this voter used; the one in which others vote for the node, where that will do."""
        theirs = self.epochs.get(node, 0)
        held = self.holder(now)
        if theirs > self.epoch and theirs > self.released.get(node, 0):
            holds = held is not None and (held.node, held.epoch) == (node, theirs)
            if holds or theirs == self.known:
                return theirs
        self.known += 1
        self.epochs[node] = max(self.known, theirs)
        return self.known
