"""The checks of chapter 09: ways out and back, read from what tcpdump printed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from egresslab.lab.checks import chapter_09 as checks
from egresslab.lab.checks.model import Outcome
from tests.unit.lab.conftest import FakeBench

URL = "http://192.168.60.13/"
ASK = "IP 10.244.1.4.43846 > 192.168.60.13.80: Flags [S]"
REPLY = "IP 192.168.60.13.80 > 10.244.1.4.43846: Flags [S.]"


def capture(*lines: str, **sources: int) -> Any:
    return SimpleNamespace(lines=lines, sources=sources, typed="tcpdump")


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        ((f"hand  Out {ASK}", f"eth0  In  {REPLY}"), Outcome.PASS),
        ((f"hand  Out {ASK}", f"hand  In  {REPLY}"), Outcome.FAIL),
        ((), Outcome.NOT_ATTEMPTED),
    ],
)
def test_out_one_way_and_back_another(bench: FakeBench, lines: tuple[str, ...], outcome: Outcome) -> None:
    assert checks.ways(bench, capture(*lines), "hand Out", "eth0 In").outcome is outcome


def test_a_reply_that_comes_in_any_other_way_is_not_symmetric(bench: FakeBench) -> None:
    outer, back_again = "IP 192.168.60.11.49334 > 192.168.60.12.8472", "IP 192.168.60.12.49388 > 192.168.60.11.8472"
    there = f"eth0  Out {outer}: VXLAN, flags [I] (0x08), vni 230\n    {ASK}"
    back = f"eth0  In  {back_again}: VXLAN, flags [I] (0x08), vni 230\n    {REPLY}"
    ways = ("eth0 Out wrapped", "eth0 In wrapped")
    assert checks.symmetric(bench, capture(there, back), *ways).outcome is Outcome.PASS
    stray = capture(there, back, f"eth0  In  {REPLY}")
    assert checks.symmetric(bench, stray, *ways).outcome is Outcome.FAIL
    assert checks.symmetric(bench, capture(there, f"eth0  In  {REPLY}"), *ways).outcome is Outcome.FAIL
    repeated = REPLY.replace("43846", "50416")  # of a connection that began before the capture
    assert checks.symmetric(bench, capture(f"eth0  In  {repeated}", there, back), *ways).outcome is Outcome.PASS
    own_link = capture(f"veth0 In  {ASK}", there, back)
    assert checks.symmetric(bench, own_link, *ways).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("answer", "sources", "outcome"),
    [
        (None, {"192.168.60.12": 3, "192.168.60.13": 4}, Outcome.PASS),
        (None, {"192.168.60.12": 3}, Outcome.FAIL),
        (None, {}, Outcome.FAIL),
        ("192.168.60.12", {"192.168.60.12": 3, "192.168.60.13": 4}, Outcome.FAIL),
    ],
)
def test_asked_outside_answered_outside_and_silence_in_the_pod(
    bench: FakeBench, answer: str | None, sources: dict[str, int], outcome: Outcome
) -> None:
    bench.sources["client-1"] = answer
    assert checks.asked_but_unanswered(bench, "client-1", URL, capture(**sources)).outcome is outcome
