"""The checks of chapter 13: through another site, and what stays near."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from egresslab.lab.checks import chapter_13 as checks
from egresslab.lab.checks.model import Outcome
from tests.unit.lab.conftest import FakeBench

INNER = "IP 10.244.3.4.51474 > 203.0.113.10.80: Flags [S]"
ANSWER = "IP 203.0.113.10.80 > 10.244.3.4.51474: Flags [S.]"
WRAPPED = f"eth2  In  IP 192.168.60.14.37708 > 10.111.128.148.8472: VXLAN, flags [I] (0x08), vni 230\n    {INNER}"
LEAVING = "eth2  Out IP 10.111.128.148.51474 > 203.0.113.10.80: Flags [S]"
BACK = f"eth2  Out IP 10.111.128.148.49160 > 192.168.60.14.8472: VXLAN, flags [I] (0x08), vni 230\n    {ANSWER}"


def capture(*lines: str) -> Any:
    return SimpleNamespace(lines=lines, typed="tcpdump")


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        ((WRAPPED, LEAVING), Outcome.PASS),
        ((WRAPPED,), Outcome.FAIL),
        ((WRAPPED, BACK), Outcome.FAIL),
        ((LEAVING,), Outcome.FAIL),
        ((), Outcome.NOT_ATTEMPTED),
    ],
)
def test_both_halves_of_the_way_must_be_seen(bench: FakeBench, lines: tuple[str, ...], outcome: Outcome) -> None:
    assert checks.wrapped_then_translated(bench, capture(*lines), "10.111.128.148").outcome is outcome


def test_near_and_far_are_both_judged(bench: FakeBench) -> None:
    near, far = "http://192.168.60.13/", "http://203.0.113.10/"
    assert checks.near(bench, "client-1", near, far, "192.168.60.11").outcome is Outcome.PASS
    assert checks.near(bench, "client-1", near, far, "10.111.128.148").outcome is Outcome.FAIL
    bench.sources["client-1"] = "10.111.128.148"
    assert checks.near(bench, "client-1", near, far, "10.111.128.148").outcome is Outcome.FAIL
