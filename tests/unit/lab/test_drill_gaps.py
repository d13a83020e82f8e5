"""What a drill says of traffic with a known interruption: that interruption, no more and no less."""

from __future__ import annotations

import ipaddress
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egresslab.errors import LabError
from egresslab.lab.drills import gaps, records, traffic
from egresslab.lab.drills.gaps import MS
from egresslab.lab.drills.owners import owners
from egresslab.lab.drills.records import Flow, Observation, Protocol, Question
from egresslab.lab.drills.witness import ANNOUNCED, ANSWERED, ASKED, claim, question

BEFORE, AFTER = ipaddress.ip_address("172.18.18.11"), ipaddress.ip_address("172.18.18.12")
INTERVAL = 10 * MS


def datagrams(start: int, length: int, trip: int = MS // 2, end: int = 3000 * MS) -> list[Question]:
    """One question each 10 ms; those sent within `length` from `start` on are lost."""
    times = range(0, end, INTERVAL)
    return [Question(t, None if start <= t < start + length else t + trip, BEFORE) for t in times]


@given(
    start=st.integers(100, 1500).map(lambda ms: ms * MS),
    length=st.integers(15, 1000).map(lambda ms: ms * MS),
    trip=st.integers(1, 20).map(lambda tenths: tenths * MS // 10),
)
def test_an_interruption_is_measured_to_within_an_interval(start: int, length: int, trip: int) -> None:
    found = gaps.gaps(datagrams(start, length, trip), INTERVAL, 0, 3000 * MS)
    assert len(found) == 1
    assert found[0].closed
    assert abs((found[0].end - found[0].start) - length) <= INTERVAL + trip


def test_without_interruption_there_is_no_gap() -> None:
    assert gaps.gaps(datagrams(0, 0), INTERVAL, 0, 3000 * MS) == []


def test_a_gap_before_the_event_does_not_count() -> None:
    assert gaps.gaps(datagrams(500 * MS, 200 * MS), INTERVAL, 1000 * MS, 3000 * MS) == []


def test_traffic_that_never_comes_back_leaves_the_gap_open() -> None:
    (gap,) = gaps.gaps(datagrams(1000 * MS, 9000 * MS), INTERVAL, 0, 3000 * MS)
    assert not gap.closed
    assert gap.ms == pytest.approx(2000, abs=11)


@given(pause=st.integers(20, 500).map(lambda ms: ms * MS))
def test_a_traffic_program_that_was_held_up_makes_no_gap(pause: int) -> None:
    """Nothing was asked, so nothing was unanswered."""
    asked = [Question(t + (pause if t >= 1000 * MS else 0), None, BEFORE) for t in range(0, 2000 * MS, INTERVAL)]
    answered = [Question(q.sent, q.sent + MS // 2, BEFORE) for q in asked]
    assert all(gap.ms <= 1 for gap in gaps.gaps(answered, INTERVAL, 0, 3000 * MS))


@given(pause=st.integers(20, 150).map(lambda ms: ms * MS))
def test_being_held_up_makes_no_gap_smaller(pause: int) -> None:
    """The first questions of a 200 ms outage were never sent, the others were lost."""
    held_up = [q for q in datagrams(1000 * MS, 200 * MS) if not 1000 * MS <= q.sent < 1000 * MS + pause]
    (gap,) = gaps.gaps(held_up, INTERVAL, 0, 3000 * MS)
    assert gap.ms >= 190


@given(delay=st.integers(20, 500).map(lambda ms: ms * MS))
def test_answers_that_come_late_all_at_once_are_a_gap(delay: int) -> None:
    """As with TCP, which repeats what was lost: nothing is missing in the end, and yet there was an interruption."""
    release = 1000 * MS + delay
    late = [Question(q.sent, max(q.sent, release if q.sent >= 1000 * MS else 0) + MS // 2) for q in datagrams(0, 0)]
    (gap,) = gaps.gaps(late, INTERVAL, 0, 3000 * MS)
    assert abs(gap.end - gap.start - delay) <= INTERVAL + MS


def kept(source_after: object = BEFORE, failed: tuple[int, int] | None = None, until: int = 3000 * MS) -> Flow:
    times = range(0, until, 100 * MS)
    return Flow(
        Protocol.TCP,
        tuple(Question(t, t + MS, BEFORE if t < 1000 * MS else source_after) for t in times),  # type: ignore[arg-type]
        0,
        failed,
    )


def test_a_connection_is_kept_only_with_its_address() -> None:
    silent = Flow(Protocol.TCP, tuple(Question(t, t + MS if t < 1000 * MS else None) for t in range(0, 3000 * MS, MS)))
    reset = kept(failed=(1400 * MS, 104), until=1300 * MS)
    never = Flow(Protocol.TCP, (Question(0),))
    flows = (kept(), kept(AFTER), reset, silent, never)
    found = gaps.connections(Observation(flows, {Protocol.TCP: 20.0}), 1000 * MS)
    assert (found.kept, found.moved, found.reset, found.silent) == (1, 1, 1, 1)
    assert found.slowest_reset_ms == 400


def test_what_a_traffic_program_writes_is_read_back() -> None:
    log = traffic.Log()
    log.note(traffic.SENT, traffic.UDP, 1, 1000)
    log.note(traffic.ANSWERED, traffic.UDP, 1, 1500, "172.18.18.11")
    log.note(traffic.SENT, traffic.UDP, 2, 2000)
    log.note(traffic.OPENED, traffic.FIRST_KEPT, 0, 900)
    log.note(traffic.FAILED, traffic.FIRST_KEPT, 104, 2500)
    log.note(traffic.LATE, 0, 12_000, 3000)
    dump = log.dump({"interval_ms": 10, "connections": 1, "connection_interval_ms": 100, "new_per_second": 0})
    found = records.read(dump).moved(-500)
    udp, tcp = found.flows
    assert udp.questions == (Question(500, 1000, BEFORE), Question(1500))
    assert (tcp.opened, tcp.failed) == (400, (2000, 104))
    assert found.late == [(2500, 12.0)]


@pytest.mark.parametrize("dump", ["", "[]", "{}", json.dumps({"records": "x", "sources": [], "config": {}})])
def test_anything_else_is_refused(dump: str) -> None:
    with pytest.raises(LabError, match="not what a traffic program writes"):
        records.read(dump)


HANDED_OVER = [(1, ASKED, ""), (2, ANSWERED, "a"), (3, ANNOUNCED, "b"), (4, ASKED, ""), (5, ANSWERED, "b")]


def test_an_address_that_is_handed_over_has_one_owner() -> None:
    assert owners(HANDED_OVER).at_once == 1
    assert [reign.hardware for reign in owners(HANDED_OVER).reigns] == ["a", "b"]


def test_two_that_answer_one_question_are_two_owners() -> None:
    assert owners([(1, ASKED, ""), (2, ANSWERED, "a"), (3, ANSWERED, "b")]).at_once == 2


def test_one_that_shows_itself_again_had_never_let_go() -> None:
    assert owners([*HANDED_OVER, (6, ANNOUNCED, "a")]).at_once == 2
    assert owners([*HANDED_OVER, (3_000 * MS, ANNOUNCED, "a")]).at_once == 1


def test_a_question_claims_nothing_and_an_answer_does() -> None:
    wanted = ipaddress.ip_address("172.18.18.242").packed
    asked = question(wanted)
    assert claim(asked, wanted) is None
    owner = bytes.fromhex("0201ac12120b")
    reply = bytearray(asked)
    reply[20:22] = b"\x00\x02"
    reply[22:28], reply[28:32], reply[38:42] = owner, wanted, bytes(4)
    assert claim(bytes(reply), wanted) == (ANSWERED, "02:01:ac:12:12:0b")
    reply[38:42] = wanted
    assert claim(bytes(reply), wanted) == (ANNOUNCED, "02:01:ac:12:12:0b")


def plainly(questions: list[Question], interval: int, since: int, until: int) -> list[tuple[int, int]]:
    """The definition of closed gaps, read aloud: for each pair of answers every question is looked at."""
    asked = [q for q in questions if q.sent <= until]
    answers = sorted(q.answered for q in asked if q.answered is not None)
    found = []
    for before, after in itertools.pairwise(answers):
        lost = [q for q in asked if q.answered is None and before < q.sent < after]
        late = [q.sent for q in asked if q.answered is not None and q.sent < after <= q.answered]
        start = before + interval if lost else max(before, min(late, default=after))
        if after > since and after - before > interval + MS and after > start:
            found.append((start, after))
    return found


@given(
    st.lists(st.tuples(st.integers(0, 400), st.none() | st.integers(0, 120)), max_size=60),
    st.integers(0, 300),
    st.integers(200, 500),
)
def test_gaps_are_those_of_the_definition(trips: list[tuple[int, int | None]], since: int, until: int) -> None:
    asked = [Question(sent * MS, None if trip is None else (sent + trip) * MS, BEFORE) for sent, trip in trips]
    found = gaps.gaps(asked, INTERVAL, since * MS, until * MS)
    assert [(gap.start, gap.end) for gap in found if gap.closed] == plainly(asked, INTERVAL, since * MS, until * MS)
