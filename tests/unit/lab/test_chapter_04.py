"""Checks that nothing happens: no answer, no packet, no address."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from egresslab.lab.checks.model import Outcome
from egresslab.lab.checks.silence import address_is_nowhere, nothing_leaves
from tests.unit.lab.conftest import FakeBench

URL = "http://192.168.60.13/"


def wire(**sources: int) -> Any:
    return SimpleNamespace(sources={key.replace("_", "."): count for key, count in sources.items()}, typed="tcpdump")


def test_silence_is_no_answer_and_no_packet(bench: FakeBench) -> None:
    bench.sources["client-1"] = None
    assert nothing_leaves(bench, "client-1", URL).outcome is Outcome.PASS
    assert nothing_leaves(bench, "client-1", URL, wire()).outcome is Outcome.PASS


def test_one_packet_outside_breaks_the_silence(bench: FakeBench) -> None:
    bench.sources["client-1"] = None
    finding = nothing_leaves(bench, "client-1", URL, wire(**{"192.168.60.11": 1}))
    assert finding.outcome is Outcome.FAIL
    assert "192.168.60.11 (1 packets)" in finding.observed


def test_one_pod_of_several_that_gets_an_answer_breaks_it_too(bench: FakeBench) -> None:
    bench.sources["client-1"] = None
    assert nothing_leaves(bench, ["client-1", "client-2"], URL).outcome is Outcome.FAIL


@pytest.mark.parametrize(("address", "outcome"), [("192.168.60.12", Outcome.FAIL), ("192.168.60.100", Outcome.PASS)])
def test_an_address_that_a_node_carries_is_found(bench: FakeBench, address: str, outcome: Outcome) -> None:
    finding = address_is_nowhere(bench, address)
    assert finding.outcome is outcome
    assert ("lab-worker2 (eth0)" in finding.observed) is (outcome is Outcome.FAIL)
