"""What the agent writes, the voter reads, and the other way round; nonsense is refused with the file's name."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from egresslab.voter.files import (
    Candidate,
    Cause,
    Conflict,
    Failback,
    Failover,
    Group,
    LeaseReport,
    NodeReport,
    Pace,
    Peer,
    Report,
    Voting,
    Watched,
    read_report,
    read_voting,
    write,
)

A, B = Peer("a", IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")), Peer("b", IPv4Address("192.0.2.2"))
VOTING = Voting(
    node="a",
    nodes=(A, B),
    voters=("a", "b"),
    generation=3,
    groups=(
        Group(
            lease=7,
            key="egresslab/main",
            candidates=(Candidate("a", macs=("02:00:00:00:00:01",)), Candidate("b", False, "is cordoned", False)),
            addresses=(IPv4Address("198.51.100.1"), IPv6Address("2001:db8:1::1")),
            announce=("eth1",),
            wires=("eth2",),
            pace=Pace(20, 2, 1),
            failback=Failback.DELAYED,
            failback_delay_s=1.5,
        ),
    ),
    watched=(Watched("b", Pace(100)),),
)
REPORT = Report(
    node="a",
    time=12.5,
    generation=3,
    voter=True,
    down=("eth1",),
    leases=(
        LeaseReport(
            7,
            "egresslab/main",
            "a",
            4,
            True,
            since=11.0,
            last_failover=Failover(11.0, "b", "a", Cause.LOST, 190.0),
            conflicts=(Conflict(IPv4Address("198.51.100.1"), "02:00:00:00:00:09", "eth1", 12.0),),
        ),
    ),
    nodes=(NodeReport("b", None, True, False, 120),),
)


def test_a_file_reads_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "voting.json", VOTING)
    write(tmp_path / "voter.json", REPORT)
    assert read_voting(tmp_path / "voting.json") == VOTING
    assert read_report(tmp_path / "voter.json") == REPORT
    assert len(list(tmp_path.iterdir())) == 2


def test_no_file_is_none(tmp_path: Path) -> None:
    assert read_voting(tmp_path / "voting.json") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"node": "a", "nodes": [], "voters": []}',
        '{"node": "a", "nodes": [{"name": "a", "address": "x"}], "voters": []}',
        '{"node": "a", "nodes": [{"name": "a", "address": "192.0.2.1"}], "voters": ["b"]}',
        '{"node": "a", "nodes": [{"name": "a", "address": "192.0.2.1"}], "voters": [], "groups": [{"lease": 1}]}',
    ],
)
def test_nonsense_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "voting.json"
    path.write_text(text)
    with pytest.raises(ValueError):
        read_voting(path)
