"""The checks of chapter 14, and that what they look at is measured as it says."""

from __future__ import annotations

import ipaddress

import pytest

from egresslab.errors import LabError
from egresslab.lab import scale
from egresslab.lab.checks import chapter_14 as checks
from egresslab.lab.checks.model import Outcome
from egresslab.lab.entries import Entry
from tests.unit.lab.conftest import FakeBench


def size(pods: int, event_ms: float, plain_ms: float) -> scale.Size:
    return scale.Size(pods, 4, 3, pods * 3, 1.0, event_ms, 0.01, plain_ms)


def test_every_node_must_have_all_rows(bench: FakeBench) -> None:
    zero, gateway = ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("192.168.60.12")
    pod, network = ipaddress.ip_address("10.244.1.1"), ipaddress.ip_network("203.0.113.0/24")
    bench.rows = [Entry(node.name, pod, network, zero, gateway) for node in bench.nodes]
    assert checks.rows_multiply(bench, 1, 1, "demo").outcome is Outcome.PASS
    bench.rows.pop()
    assert checks.rows_multiply(bench, 1, 1, "demo").outcome is Outcome.FAIL


@pytest.mark.parametrize(("last_event", "outcome"), [(0.02, Outcome.PASS), (0.2, Outcome.FAIL)])
def test_an_event_that_grows_with_the_cluster_fails(bench: FakeBench, last_event: float, outcome: Outcome) -> None:
    growth = scale.Growth((size(300, 0.02, 50), size(3_000, last_event, 900)))
    assert checks.event_does_not_grow(bench, growth).outcome is outcome


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [(None, Outcome.NOT_ATTEMPTED), ((300_000, 1), Outcome.PASS), ((300, 436), Outcome.FAIL)],
)
def test_rows_are_those_of_all_pods(bench: FakeBench, answer: tuple[int, int] | None, outcome: Outcome) -> None:
    assert checks.will_it_fit(bench, answer).outcome is outcome


def test_what_is_measured_is_a_cluster_of_that_size_and_can_be_drawn() -> None:
    growth = scale.measure([100, 200])
    assert [(found.pods, found.entries) for found in growth] == [(100, 300), (200, 600)]
    assert growth.picture().startswith(b"<?xml")
    assert "gateway lost" in str(growth)


def test_a_size_that_is_no_cluster_is_refused() -> None:
    with pytest.raises(LabError, match="100 or more"):
        scale.measure([7])
