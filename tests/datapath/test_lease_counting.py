"""Grants become leases as an independent count says, whatever is probed; what is no probe changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egresslab.datapath.frames import build
from egresslab.datapath.leases import LeaseMaps, lease_number
from egresslab.datapath.probe import (
    PORT,
    Answer,
    GrantRequest,
    LeaseState,
    Request,
    pack_answer,
    pack_request,
    unpack_answer,
    unpack_request,
)
from egresslab.datapath.testing import Node, Rig
from egresslab.datapath.trial import test_run
from egresslab.datapath.values import Lease, Program, Protocol, Reason, Verdict
from egresslab.errors import DatapathError

from .leasing import clean, now_ns

relaxed = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

MS = 1_000_000
LEASES = (7, 8)
ABSENT = 9
STRANGER = IPv4Address("192.168.60.99")
LONGEST_MS = 60_000
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@pytest.fixture
def node(rig: Rig) -> Iterator[Node]:
    yield rig.nodes["gateway"]
    clean(rig.nodes["gateway"].datapath.leases)


@dataclass
class Count:
    """Leases by hand: voter -> (epoch, until), and what was ever granted by a quorum."""

    voters: list[IPv4Address]
    grants: dict[int, dict[IPv4Address, tuple[int, int]]] = field(default_factory=lambda: {n: {} for n in LEASES})
    held: dict[int, tuple[int, int]] = field(default_factory=lambda: dict.fromkeys(LEASES, (0, 0)))

    def probe(self, sender: IPv4Address, now: int, request: Request) -> None:
        fresh = 0 < request.echo_ns <= now and now - request.echo_ns < 60_000 * MS
        for grant in request.grants:
            if not fresh or sender not in self.voters or grant.lease not in LEASES:
                continue
            if grant.duration_ms > LONGEST_MS or not 0 < grant.epoch < 2**63:
                continue
            offered = (grant.epoch, request.echo_ns + grant.duration_ms * MS)
            mine = self.grants[grant.lease]
            mine[sender] = max(mine.get(sender, (0, 0)), offered)
            self._recount(grant.lease)

    def _recount(self, lease: int) -> None:
        quorum = len(self.voters) // 2 + 1
        valid = [self.grants[lease][voter] for voter in self.voters if voter in self.grants[lease]]
        for epoch in {epoch for epoch, _ in valid}:
            untils = sorted((until for e, until in valid if e == epoch), reverse=True)
            if len(untils) >= quorum:
                self.held[lease] = max(self.held[lease], (epoch, untils[quorum - 1]))


@dataclass(frozen=True)
class Step:
    """One probe; or, with `change`, one voter is replaced by a new one."""

    sender: int
    echo_age_ms: int | None
    grants: tuple[GrantRequest, ...]
    change: int | None = None


grants = st.builds(
    GrantRequest,
    st.sampled_from([*LEASES, *LEASES, ABSENT]),
    st.sampled_from([0, 1, 150, 200, 201, 5_000, LONGEST_MS, LONGEST_MS + 1, 2**32 - 1]),
    st.sampled_from([1, 1, 2, 2, 3, 4, 0, 2**63, 2**63 - 1]),
)
steps = st.builds(
    Step,
    st.integers(0, 5),
    st.sampled_from([1, 2, 50, 100, 1_000, 59_000, 61_000, -5_000, None]),
    st.lists(grants, max_size=8).map(tuple),
    st.none() | st.none() | st.none() | st.integers(0, 6),
)


@pytest.mark.root
@given(st.integers(1, 7), st.lists(steps, min_size=1, max_size=14))
@relaxed
def test_any_sequence_of_probes_counts_as_by_hand(node: Node, electorate: int, sequence: list[Step]) -> None:
    maps = node.datapath.leases
    clean(maps)
    fresh = (IPv4Address(0x0A000001 + number) for number in range(100))
    voters = [next(fresh) for _ in range(electorate)]
    maps.set_voters(voters)
    for lease in LEASES:
        maps.make_lease(lease)
    model = Count(voters)
    for number, step in enumerate(sequence):
        if step.change is not None:
            voters[step.change % len(voters)] = next(fresh)
            maps.set_voters(voters)
        sender = voters[step.sender] if step.sender < len(voters) else STRANGER
        echo = 0 if step.echo_age_ms is None else max(0, now_ns() - step.echo_age_ms * MS)
        request = Request(number, 12345 + number, echo, step.grants)
        answer = maps.probe(request, sender=sender, target=node.v4)
        assert answer is not None
        model.probe(sender, answer.gateway_ns, request)
        assert (answer.sequence, answer.clock_ns, answer.echo_ns) == (number, 12345 + number, echo)
        counted = maps.leases()
        assert {n: (lease.epoch, lease.holds_until_ns) for n, lease in counted.items()} == model.held
        for lease, found in counted.items():
            expected = {voter: model.grants[lease].get(voter) for voter in voters}
            seen = {v: (found.grants[v].epoch, found.grants[v].until_ns) if v in found.grants else None for v in voters}
            assert seen == expected
        if len({grant.lease for grant in step.grants}) == len(step.grants):
            assert answer.leases == tuple(
                state(grant.lease, counted.get(grant.lease), answer.gateway_ns) for grant in step.grants
            )


def state(number: int, lease: Lease | None, now: int) -> LeaseState:
    if lease is None:
        return LeaseState(number, 0, 0)
    return LeaseState(number, max(0, -(-(lease.holds_until_ns - now) // MS)), lease.epoch)


def probe_frame(payload: bytes, sender: IPv4Address, node: Node) -> bytes:
    return build(sender, node.v4, Protocol.UDP, PORT, PORT, data=payload)


SPOILED = {
    "ip version": (14, b"\x65"),
    "ip options": (14, b"\x46"),
    "ip length": (16, b"\x00\xc3"),
    "first fragment": (20, b"\x20\x00"),
    "later fragment": (20, b"\x00\x08"),
    "tcp": (23, b"\x06"),
    "other target": (30, b"\x0a"),
    "source port": (34, b"\x26\x95"),
    "destination port": (36, b"\x26\x95"),
    "udp length": (38, b"\x00\xaf"),
    "magic": (45, b"C"),
    "version": (46, b"\x02"),
    "an answer": (47, b"\x02"),
    "nine grants": (48, b"\x09"),
    "reserved byte": (49, b"\x01"),
}


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("spoiled", SPOILED)
async def test_what_is_not_exactly_a_probe_passes_untouched(node: Node, spoiled: str) -> None:
    maps, voter = node.datapath.leases, IPv4Address("10.0.0.1")
    maps.set_voters([voter])
    maps.make_lease(7)
    request = Request(1, 2, now_ns(), (GrantRequest(7, 5_000, 1),))
    frame = bytearray(probe_frame(pack_request(request), voter, node))
    offset, value = SPOILED[spoiled]
    frame[offset : offset + len(value)] = value
    before = node.datapath.counters.get(Program.FROM_WIRE, Reason.PROBED).packets
    outcome = test_run(node.datapath, Program.FROM_WIRE, bytes(frame))
    assert (outcome.verdict, outcome.frame) == (Verdict.PASS, bytes(frame))
    assert maps.lease(7) == Lease(0, 0, {})
    assert node.datapath.counters.get(Program.FROM_WIRE, Reason.PROBED).packets == before
    assert maps.probe(request, sender=voter, target=node.v4) is not None, "unspoiled, it is one"


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_a_shorter_or_longer_datagram_is_no_probe(node: Node) -> None:
    payload = pack_request(Request(1, 2))
    for other in (payload[:-1], payload + b"\0", b"EGLB", b""):
        frame = probe_frame(other, IPv4Address("10.0.0.1"), node)
        outcome = test_run(node.datapath, Program.FROM_WIRE, frame)
        assert (outcome.verdict, outcome.frame) == (Verdict.PASS, frame)


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_a_voter_that_stays_keeps_its_grant_when_others_change(node: Node) -> None:
    maps = node.datapath.leases
    one, two, three = (IPv4Address(f"10.0.0.{n}") for n in (1, 2, 3))
    maps.set_voters([one, two, three])
    maps.make_lease(7)
    maps.probe(Request(1, 2, now_ns(), (GrantRequest(7, 5_000, 3),)), sender=three, target=node.v4)
    maps.set_voters([three])
    assert (maps.voters().addresses, maps.voters().quorum) == ((three,), 1)
    found = maps.lease(7)
    assert found and found.grants[three].epoch == 3
    with pytest.raises(DatapathError, match="too many voters"):
        maps.set_voters([IPv4Address(n) for n in range(1, 9)])


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_new_voters_do_not_bring_an_old_epoch_back(node: Node) -> None:
    maps = node.datapath.leases
    one, two = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
    maps.make_lease(7)
    for voter, epoch, until_ms, expected in ((one, 5, 300, 5), (two, 4, 50_000, 5), (two, 6, 100, 6)):
        maps.set_voters([voter])
        answer = maps.probe(Request(1, 2, now_ns(), (GrantRequest(7, until_ms, epoch),)), sender=voter, target=node.v4)
        assert answer and answer.leases[0].epoch == expected
        assert answer.leases[0].held_ms <= 300


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_the_answer_says_whether_the_voter_lives(node: Node) -> None:
    maps = node.datapath.leases
    for beat, alive in ((0, False), (now_ns() - 2_000 * MS, False), (now_ns(), True)):
        maps.beat(beat)
        answer = maps.probe(Request(1, 2), sender=STRANGER, target=node.v4)
        assert answer is not None and answer.voter_alive is alive


@pytest.mark.root
@pytest.mark.asyncio(loop_scope="session")
async def test_the_voters_maps_are_opened_without_loading(node: Node) -> None:
    with LeaseMaps.open(node.pin_dir) as maps:
        assert maps.current()
        maps.make_lease(7)
        assert node.datapath.leases.lease(7) == Lease(0, 0, {})
        assert maps.probe(Request(5, 6), sender=STRANGER, target=node.v4) is not None
        assert maps.probe(Request(5, 6), sender=STRANGER, target=STRANGER) is None
    with pytest.raises(DatapathError, match="no such map"):
        LeaseMaps.open(node.pin_dir.parent / "nobody")


def test_numbers_of_leases_are_the_documented_hash() -> None:
    assert lease_number("", "") == lease_number_by_hand(b"/")
    assert lease_number("egresslab.dev", "web") == lease_number_by_hand(b"egresslab.dev/web")


def lease_number_by_hand(text: bytes) -> int:
    number = 2_166_136_261
    for byte in text:
        number ^= byte
        number = (number + (number << 1) + (number << 4) + (number << 7) + (number << 8) + (number << 24)) % 2**32
    return number


requests = st.builds(Request, u32, u64, u64, st.lists(st.builds(GrantRequest, u32, u32, u64), max_size=8).map(tuple))
answers = st.builds(
    Answer,
    u32,
    st.booleans(),
    u64,
    u64,
    u64,
    st.lists(st.builds(LeaseState, u32, u32, u64), max_size=8).map(tuple),
)


@given(requests, answers)
def test_both_directions_survive_packing(request_: Request, answer: Answer) -> None:
    packed, answered = pack_request(request_), pack_answer(answer)
    assert len(packed) == len(answered) == 168
    assert (unpack_request(packed), unpack_answer(answered)) == (request_, answer)
    assert (unpack_request(answered), unpack_answer(packed)) == (None, None)
    assert unpack_request(packed[:-1]) is None
    with pytest.raises(ValueError, match="at most 8"):
        pack_request(replace(request_, grants=(GrantRequest(1, 1, 1),) * 9))
