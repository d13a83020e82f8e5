"""The check of chapter 12: an address for each family."""

from __future__ import annotations

import pytest

from egresslab.lab.checks.chapter_12 import two_families
from egresslab.lab.checks.model import Outcome
from tests.unit.lab.conftest import FakeBench

V4, V6 = "http://203.0.113.10/", "http://[2001:db8:113::10]/"


@pytest.mark.parametrize(
    ("wanted", "outcome"),
    [
        ({V4: "192.168.60.11", V6: "fd00:60::11"}, Outcome.PASS),
        ({V4: "192.168.60.11", V6: "fd00:18::14"}, Outcome.FAIL),
        ({V4: "172.18.18.12", V6: "fd00:60::11"}, Outcome.FAIL),
    ],
)
def test_both_families_must_be_right(bench: FakeBench, wanted: dict[str, str], outcome: Outcome) -> None:
    assert two_families(bench, "client-1", wanted).outcome is outcome


def test_no_answer_is_not_right(bench: FakeBench) -> None:
    bench.sources["client-1"] = None
    assert two_families(bench, "client-1", {V4: "192.168.60.11"}).outcome is Outcome.FAIL
