"""One node probed at one pace: whether it answers, and what its clock showed when it last did.

Pure: it is told when to judge and what came, and remembers. The moment at which an answer *arrived here* is what a
promise is counted from; the moment that the gateway's clock showed is what the gateway counts from. The second is
never later than the first, which is all that fencing needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from egresslab.datapath.probe import Answer
from egresslab.voter.messages import Seen, Target


class Heard(NamedTuple):
    """The gateway's clock in its latest answer, and this node's clock when that answer arrived."""

    gateway_ns: int
    at_ns: int


@dataclass(slots=True)
class Probed:
    """Judged once an interval: was the last probe answered?"""

    target: Target
    since_ns: int
    """Answers to probes from before are an earlier process's."""
    alive: bool | None = None
    voice: bool = False
    """Its voter process was running."""
    heard: Heard | None = None
    rtt_ns: int | None = None
    answered_ns: int = 0
    """When the probe that was answered last was sent."""
    waiting: bool = False
    in_time: bool = False
    misses: int = 0
    hits: int = 0

    @property
    def seen(self) -> Seen | None:
        """What to tell the others; None while nothing is known."""
        if self.alive is None:
            return None
        if not self.alive:
            return Seen.LOST
        return Seen.ALIVE if self.voice else Seen.VOICELESS

    def judge(self, late: bool) -> None:
        """Before the next probe is sent. A voter that was late itself does not count what it missed."""
        if not self.waiting:
            return
        if self.in_time:
            self.hits, self.misses = self.hits + 1, 0
            if self.alive is None or self.hits >= self.target.pace.recoveries:
                self.alive = True
        elif not late:
            self.hits, self.misses = 0, self.misses + 1
            if self.misses >= self.target.pace.failures:
                self.alive = False

    def sent(self) -> None:
        self.waiting, self.in_time = True, False

    def answered(self, now: int, answer: Answer) -> bool:
        """Take an answer; False for one that is old, doubled, or to an earlier process."""
        if not self.since_ns <= answer.clock_ns <= now or answer.clock_ns <= self.answered_ns:
            return False
        self.answered_ns = answer.clock_ns
        self.rtt_ns = now - answer.clock_ns
        self.heard = Heard(answer.gateway_ns, now)
        self.voice = answer.voter_alive
        if self.rtt_ns <= self.target.pace.failures * self.target.pace.interval_ns:
            self.in_time = True
            if self.alive is None:
                self.alive = True
        return True
