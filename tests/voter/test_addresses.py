"""Frames as another implementation reads them, and what becomes of an address that somebody else claims."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.utils6 import in6_getnsma, in6_getnsmac

from egresslab.datapath.values import Announced
from egresslab.voter.addresses import Addresses
from egresslab.voter.files import MILLISECOND, Candidate, Group, IPAddress
from egresslab.voter.frames import (
    Claim,
    advertisement_claim,
    announcements,
    arp_claim,
    question,
)

MAC, STRANGER = "02:00:00:00:00:0a", "02:00:00:00:00:99"
RAW = bytes.fromhex(MAC.replace(":", ""))
V4, V6 = IPv4Address("172.18.18.201"), IPv6Address("fd00:18::201")
SECOND = 1_000 * MILLISECOND
GROUP = Group(7, "egresslab/main", (Candidate("a"), Candidate("b")), addresses=(V4, V6), announce=("eth1",))


def test_gratuitous_arp_comes_in_both_forms() -> None:
    frames = [Ether(raw)[ARP] for raw in announcements(V4, RAW)]
    assert [frame.op for frame in frames] == [1, 2]
    assert all((frame.psrc, frame.pdst, frame.hwsrc) == (str(V4), str(V4), MAC) for frame in frames)
    assert {Ether(raw).dst for raw in announcements(V4, RAW)} == {"ff:ff:ff:ff:ff:ff"}
    assert [arp_claim(raw) for raw in announcements(V4, RAW)] == [Claim(V4, MAC)] * 2


def test_an_unsolicited_advertisement_overrides() -> None:
    (raw,) = announcements(V6, RAW)
    frame = Ether(raw)
    assert (frame.dst, frame[IPv6].dst, frame[IPv6].hlim) == ("33:33:00:00:00:01", "ff02::1", 255)
    message = frame[ICMPv6ND_NA]
    assert (message.R, message.S, message.O, message.tgt) == (0, 0, 1, str(V6))
    assert frame[ICMPv6NDOptDstLLAddr].lladdr == MAC
    sum_sent = message.cksum
    del message.cksum
    assert Ether(bytes(frame))[ICMPv6ND_NA].cksum == sum_sent
    assert advertisement_claim(bytes(frame[ICMPv6ND_NA])) == Claim(V6, MAC)


def test_a_question_teaches_nobody_anything() -> None:
    arp = Ether(question(V4, RAW))[ARP]
    assert (arp.op, arp.psrc, arp.pdst) == (1, "0.0.0.0", str(V4))
    assert arp_claim(question(V4, RAW)) is None
    asked = Ether(question(V6, RAW))
    group = in6_getnsma(V6.packed)
    assert (asked.dst, asked[IPv6].src, IPv6Address(asked[IPv6].dst)) == (
        in6_getnsmac(group),
        "::",
        IPv6Address(group),
    )
    assert asked[ICMPv6ND_NS].tgt == str(V6)


@pytest.mark.parametrize("raw", [b"", bytes(14), bytes(60), announcements(V4, RAW)[0][:30]])
def test_what_is_no_claim_is_none(raw: bytes) -> None:
    assert arp_claim(raw) is None
    assert advertisement_claim(raw) is None


class Paper:
    """A wire and a map that only remember."""

    def __init__(self) -> None:
        self.map: dict[tuple[IPAddress, int], Announced] = {}
        self.told: list[IPAddress] = []
        self.asked: list[IPAddress] = []

    def announced(self) -> dict[tuple[IPAddress, int], Announced]:
        return dict(self.map)

    def announce(self, address: IPAddress, where: object, value: object = None) -> None:
        if isinstance(value, Announced):
            assert isinstance(where, int)
            self.map[address, where] = value
        else:
            self.told.append(address)

    def withdraw(self, address: IPAddress, ifindex: int) -> None:
        del self.map[address, ifindex]

    def ask(self, address: IPAddress, names: Collection[str]) -> None:
        self.asked.append(address)

    def silent(self) -> set[IPAddress]:
        return {address for (address, _), value in self.map.items() if value.silent}


def addresses(paper: Paper) -> Addresses:
    made = Addresses(paper, paper)
    made.adopt()
    made.configure([GROUP], {"eth1": 3}, 0)
    return made


def test_a_holder_announces_in_a_burst_and_then_now_and_again() -> None:
    paper = Paper()
    made = addresses(paper)
    made.hold([7], 0)
    times = []
    for now in range(0, 22 * SECOND, 10 * MILLISECOND):
        before = len(paper.told)
        made.run(now)
        if len(paper.told) > before:
            times.append(now // MILLISECOND)
    assert times == [0, 20, 100, 500, 1000, 10000, 20000]
    assert set(paper.told) == {V4, V6}
    assert V4 not in paper.asked


def test_a_link_that_changed_is_announced_on_at_once() -> None:
    """Neighbours that know the MAC of before would send to nobody until the next reminder."""
    paper = Paper()
    made = addresses(paper)
    made.announce_anew(0)
    made.run(0)
    assert paper.told == [], "who holds nothing announces nothing"
    made.hold([7], 0)
    for now in range(0, 3 * SECOND, 10 * MILLISECOND):
        made.run(now)
    paper.told.clear()
    made.run(3 * SECOND)
    assert paper.told == []
    made.announce_anew(3 * SECOND)
    made.run(3 * SECOND)
    assert set(paper.told) == {V4, V6}


def test_a_standby_keeps_a_claimed_address_silent_until_the_claims_end() -> None:
    paper = Paper()
    made = addresses(paper)
    assert made.claimed(0, 1.0, Claim(V4, STRANGER), "eth1", {MAC})
    assert not made.claimed(SECOND, 2.0, Claim(V4, STRANGER), "eth1", {MAC}), "it was said already"
    assert paper.silent() == {V4}
    assert [conflict.mac for conflict in made.conflicts_of(7)] == [STRANGER]
    made.hold([7], 2 * SECOND)
    made.run(2 * SECOND)
    assert paper.silent() == {V4} and paper.told == [V6], "taken over, and still not answered for"
    paper.told.clear()
    made.run(5 * SECOND)
    assert paper.silent() == set()
    assert V4 in paper.told


def test_a_holder_does_not_give_way_to_a_stranger_but_says_so() -> None:
    paper = Paper()
    made = addresses(paper)
    made.hold([7], 0)
    assert made.claimed(0, 1.0, Claim(V4, STRANGER), "eth1", {MAC})
    assert paper.silent() == set()
    assert made.conflicts_of(7)


def test_a_candidate_is_no_stranger() -> None:
    paper = Paper()
    made = addresses(paper)
    assert not made.claimed(0, 1.0, Claim(V4, MAC), "eth1", {MAC})
    assert not made.claimed(0, 1.0, Claim(IPv4Address("172.18.18.9"), STRANGER), "eth1", {MAC})
    assert not made.conflicts_of(7)


def test_what_was_silent_stays_silent_for_the_next_process() -> None:
    paper = Paper()
    addresses(paper).silence(7, True)
    assert paper.silent() == {V4, V6}
    again = Addresses(paper, paper)
    assert again.adopt() == {7}
    again.configure([GROUP], {"eth1": 3}, 0)
    assert paper.silent() == {V4, V6}
    again.configure([GROUP], {"eth1": 4}, 0)
    assert {index for _, index in paper.map} == {4}
    again.configure([], {}, 0)
    assert paper.map == {}
