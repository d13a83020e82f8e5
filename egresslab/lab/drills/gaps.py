"""What an event did to traffic: gaps, losses, connections kept, addresses seen. Pure arithmetic over an `Observation`.

A **gap** is a time in which something was asked and nothing was answered. Between two answers that follow one another
it is counted from the first question that was still open, so that a traffic program that was itself held up makes no
gap; where questions were lost for good, it is all the time between the two answers but for one interval, so that
being held up makes no gap smaller either.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from egresslab.lab.drills.records import GATEWAY_TRAFFIC, Flow, Observation, Protocol, Question
from egresslab.lab.entries import IPAddress

IN_FLIGHT_NS = 300_000_000
"""Questions of the last moments before the end are neither lost nor answered."""
JITTER_NS = 1_000_000
MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without answers, ns since the epoch; `closed` is false for one that lasted until the end."""

    start: int
    end: int
    closed: bool = True

    @property
    def ms(self) -> float:
        """How long, in ms."""
        return (self.end - self.start) / MS


@dataclass(frozen=True, slots=True)
class Loss:
    """One protocol's traffic from the event on."""

    protocol: Protocol
    sent: int
    lost: int
    gap: Gap | None
    """The longest one; None when there is none longer than an interval."""

    @property
    def gap_ms(self) -> float:
        """The longest gap, 0 if there is none."""
        return self.gap.ms if self.gap else 0.0


@dataclass(frozen=True, slots=True)
class Connections:
    """What became of the connections that were open at the event. A `kept` one was answered after it, from the same
    address; `slowest_reset_ms` is counted from the moment from which nothing was answered."""

    kept: int
    reset: int
    silent: int
    moved: int
    """Answered after the event, but with another source address."""
    slowest_reset_ms: float | None
    stall_ms: tuple[float, ...]
    """For each kept one the longest time it waited for an answer, ascending."""

    @property
    def lost(self) -> int:
        """All that were not kept."""
        return self.reset + self.silent + self.moved


@dataclass(frozen=True, slots=True)
class Seen:
    """A source address as the world outside told it; ns since the epoch."""

    address: IPAddress
    answers: int
    first: int
    last: int


def gaps(questions: Iterable[Question], interval_ns: int, since: int, until: int) -> list[Gap]:
    """Gaps that end after `since`; `until` ends one that is still open. Questions may be of several flows."""
    asked = sorted((q for q in questions if q.sent <= until), key=lambda q: q.sent)
    answers = sorted(q.answered for q in asked if q.answered is not None)
    unanswered = [q.sent for q in asked if q.answered is None]
    answered = iter([(q.sent, q.answered) for q in asked if q.answered is not None])
    coming = next(answered, None)
    waiting: deque[tuple[int, int]] = deque()
    found: list[Gap] = []
    for before, after in itertools.pairwise(answers):
        # Those asked before and answered not before this answer, the longest waiting first.
        while coming is not None and coming[0] < after:
            waiting.append(coming)
            coming = next(answered, None)
        while waiting and waiting[0][1] < after:
            waiting.popleft()
        if after > since and after - before > interval_ns + JITTER_NS:
            lost = bisect_right(unanswered, before)
            if lost < len(unanswered) and unanswered[lost] < after:
                start = before + interval_ns
            elif waiting:
                start = max(before, waiting[0][0])
            else:
                continue
            if after > start:
                found.append(Gap(start, after))
    last = answers[-1] if answers else min((q.sent for q in asked), default=until)
    still = [sent for sent in unanswered if sent > last]
    if still and until - last > max(IN_FLIGHT_NS, interval_ns):
        found.append(Gap(still[0], until, closed=False))
    return found


def loss(observation: Observation, protocol: Protocol, since: int) -> Loss:
    """Losses and the longest gap of one protocol from `since` on. Of lasting connections it is the time in which none
    of those that outlived the event was answered; lines that TCP repeated are not lost."""
    flows = [flow for flow in observation.of(protocol) if flow.failed is None]
    questions = [q for flow in flows for q in flow.questions]
    interval = int(observation.interval_ms.get(protocol, 0) * MS)
    end = observation.end
    later = [q for q in questions if since <= q.sent <= end - IN_FLIGHT_NS]
    longest = max(gaps(questions, interval, since, end), key=lambda gap: gap.ms, default=None)
    return Loss(protocol, len(later), sum(q.answered is None for q in later), longest)


def connections(observation: Observation, since: int, silent_from: int | None = None) -> Connections:
    """What became of the connections that had been answered before `since`. Resets are timed from `silent_from` on, the
    moment from which nothing was answered any more: what was begun at `since` may have taken its time."""
    origin = since if silent_from is None else silent_from
    kept = silent = moved = 0
    resets: list[float] = []
    stalls: list[float] = []
    for flow in observation.of(Protocol.TCP):
        earlier = [q.source for q in flow.questions if q.answered is not None and q.answered < since]
        if not earlier:
            continue
        if flow.failed is not None:
            resets.append((flow.failed[0] - origin) / MS)
            continue
        answered = [q for q in flow.questions if q.answered is not None and q.sent >= since]
        if not answered or observation.end - (answered[-1].answered or 0) > _patience(observation):
            silent += 1
        elif {q.source for q in answered} != {earlier[-1]}:
            moved += 1
        else:
            kept += 1
            stalls.append(_stall(flow, since))
    return Connections(kept, len(resets), silent, moved, max(resets, default=None), tuple(sorted(stalls)))


def _patience(observation: Observation) -> int:
    """How long before the end the last answer may be: some questions, or a retransmission (RFC 6298: 1 s at most)."""
    count = len(observation.of(Protocol.TCP))
    return max(1_000_000_000, int(5 * observation.interval_ms[Protocol.TCP] * count * MS))


def _stall(flow: Flow, since: int) -> float:
    return max(((q.answered - q.sent) / MS for q in flow.questions if q.answered and q.answered >= since), default=0.0)


def seen(observation: Observation) -> tuple[Seen, ...]:
    """Every source address that an answer through a gateway told of, in the order of first sight."""
    counts: Counter[IPAddress] = Counter()
    first: dict[IPAddress, int] = {}
    last: dict[IPAddress, int] = {}
    for flow in (flow for protocol in GATEWAY_TRAFFIC for flow in observation.of(protocol)):
        for q in flow.questions:
            if q.source is not None and q.answered is not None:
                counts[q.source] += 1
                first[q.source] = min(first.get(q.source, q.answered), q.answered)
                last[q.source] = max(last.get(q.source, q.answered), q.answered)
    return tuple(Seen(a, counts[a], first[a], last[a]) for a in sorted(first, key=lambda address: first[address]))
