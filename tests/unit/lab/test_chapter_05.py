"""The checks of chapter 05: hops, ports, and drops with a reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from egresslab.lab.checks import chapter_05 as checks
from egresslab.lab.checks.model import Outcome
from tests.unit.lab.conftest import FakeBench

POD, EGRESS = "10.244.1.4", "172.18.18.12"
ASK = "IP 10.244.1.4.46018 > 203.0.113.10.80: Flags [S], seq 1"
REPLY = "IP 203.0.113.10.80 > 10.244.1.4.46018: Flags [S.], seq 1"
OUTER = "IP 192.168.60.11.49334 > 192.168.60.12.8472: VXLAN, flags [I] (0x08), vni 230"
OUTER_BACK = "IP 192.168.60.12.49388 > 192.168.60.11.8472: VXLAN, flags [I] (0x08), vni 230"
LINK = f"veth0 In  {ASK}"
THERE, BACK = f"eth0  Out {OUTER}\n    {ASK}", f"eth0  In  {OUTER_BACK}\n    {REPLY}"
ARRIVING = f"eth0  In  {OUTER}\n    {ASK}"
FROM_ELSEWHERE = ARRIVING.replace("192.168.60.11", "192.168.60.14")
BACK_FROM_ELSEWHERE = BACK.replace("192.168.60.12", "192.168.60.14")
NAKED = "eth0  Out IP 10.244.1.4.46018 > 203.0.113.10.80: Flags [S]"
LEAVING = "eth1  Out IP 172.18.18.12.46018 > 203.0.113.10.80: Flags [S]"
COUNTERS = """PROGRAM       REASON          DROPPED  PACKETS  BYTES
from_pod      STEERED         False    6        480
from_pod      INVALID_SOURCE  True     2        196
from_pod      NO_GATEWAY      True     1        74
"""


def capture(*lines: str) -> Any:
    return SimpleNamespace(lines=lines, typed="tcpdump")


@pytest.mark.parametrize(
    ("home", "gateway", "outcome"),
    [
        ([LINK, THERE, BACK], [ARRIVING, LEAVING], Outcome.PASS),
        ([LINK, THERE, BACK, NAKED], [ARRIVING, LEAVING], Outcome.FAIL),
        ([LINK, THERE, BACK], [ARRIVING, LEAVING, NAKED], Outcome.FAIL),
        ([LINK, THERE, BACK], [ARRIVING], Outcome.FAIL),
        ([LINK, THERE, BACK], [LEAVING], Outcome.FAIL),
        ([LINK, THERE, BACK], [FROM_ELSEWHERE, LEAVING], Outcome.FAIL),
        ([LINK, THERE], [ARRIVING, LEAVING], Outcome.FAIL),
        ([LINK, THERE, BACK_FROM_ELSEWHERE], [ARRIVING, LEAVING], Outcome.FAIL),
        ([LINK], [LEAVING], Outcome.FAIL),
        ([], [LEAVING], Outcome.FAIL),
        ([], [], Outcome.NOT_ATTEMPTED),
    ],
)
def test_the_pods_address_is_seen_in_the_tunnel_alone(
    bench: FakeBench, home: list[str], gateway: list[str], outcome: Outcome
) -> None:
    assert checks.hop_by_hop(bench, capture(*home), capture(*gateway), POD, EGRESS).outcome is outcome


@pytest.mark.parametrize(
    ("second", "outcome"),
    [
        ('{"address": "172.18.18.12", "port": 10676}', Outcome.PASS),
        ('{"address": "172.18.18.12", "port": 45678}', Outcome.FAIL),
        ("", Outcome.FAIL),
    ],
)
def test_one_pair_is_seen_once(bench: FakeBench, second: str, outcome: Outcome) -> None:
    first = '{"address": "172.18.18.12", "port": 45678}'
    assert checks.never_the_same_port(bench, {"client": first, "twin": second}).outcome is outcome


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (None, Outcome.NOT_ATTEMPTED),
        (("from_pod", "INVALID_SOURCE"), Outcome.PASS),
        (("from_pod", "NO_GATEWAY"), Outcome.FAIL),
        (("to_wire", "INVALID_SOURCE"), Outcome.FAIL),
    ],
)
def test_the_drop_is_named_by_program_and_reason(
    bench: FakeBench, answer: tuple[str, str] | None, outcome: Outcome
) -> None:
    assert checks.which_program(bench, answer, COUNTERS).outcome is outcome
