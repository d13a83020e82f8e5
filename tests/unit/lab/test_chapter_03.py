"""The check of chapter 03: these pods and no others."""

from __future__ import annotations

import pytest

from egresslab.lab.checks.model import Finding, Outcome
from egresslab.lab.checks.selection import selected_and_no_others
from tests.unit.lab.conftest import FakeBench

PARTNER = "http://203.0.113.20/"


def ask(bench: FakeBench, sources: dict[str, str | None]) -> Finding:
    bench.sources.update(sources)
    return selected_and_no_others(bench, ["client-1", "client-2"], ["client-3"], "172.18.18.14", PARTNER)


@pytest.mark.parametrize(
    ("sources", "outcome"),
    [
        ({"client-1": "172.18.18.14", "client-2": "172.18.18.14"}, Outcome.PASS),
        ({"client-1": "172.18.18.14"}, Outcome.FAIL),
        ({"client-1": "172.18.18.14", "client-2": "172.18.18.14", "client-3": "172.18.18.14"}, Outcome.FAIL),
        ({"client-3": "172.18.18.14"}, Outcome.FAIL),
        ({"client-1": None, "client-2": None}, Outcome.NOT_ATTEMPTED),
        ({}, Outcome.NOT_ATTEMPTED),
    ],
)
def test_one_too_many_is_as_wrong_as_one_too_few(
    bench: FakeBench, sources: dict[str, str | None], outcome: Outcome
) -> None:
    assert ask(bench, sources).outcome is outcome


def test_the_finding_names_every_pod_with_what_was_seen(bench: FakeBench) -> None:
    finding = ask(bench, {"client-2": None})
    assert finding.observed == "client-1: 192.168.60.11, client-2: no answer, client-3: 192.168.60.14"
