"""The check of chapter 11 that looks at an answer from earlier."""

from __future__ import annotations

import pytest

from egresslab.lab.checks.chapter_11 import answer_is
from egresslab.lab.checks.model import Outcome
from tests.unit.lab.conftest import FakeBench


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("172.18.18.12\n", Outcome.PASS), ("192.168.60.11\n", Outcome.FAIL), ("", Outcome.FAIL)],
)
def test_only_the_very_address_will_do(bench: FakeBench, answer: str, outcome: Outcome) -> None:
    assert answer_is(bench, answer, "172.18.18.12").outcome is outcome
