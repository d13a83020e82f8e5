"""The checks of chapter 06: who uses which gateway, and who moves."""

from __future__ import annotations

import pytest

from egresslab.lab.checks import chapter_06 as checks
from egresslab.lab.checks.model import Outcome
from tests.unit.lab.conftest import FakeBench

WEB = "http://203.0.113.10/"
PODS = ["client-1", "client-2", "client-3"]
A, B, C = "192.168.60.101", "192.168.60.102", "192.168.60.103"


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [((A, B, A), Outcome.PASS), ((A, A, A), Outcome.FAIL), ((A, B, C), Outcome.FAIL), ((A, B, None), Outcome.FAIL)],
)
def test_spread_means_only_gateways_and_more_than_one(
    bench: FakeBench, seen: tuple[str | None, ...], outcome: Outcome
) -> None:
    bench.sources.update(zip(PODS, seen, strict=True))
    assert checks.spread_over_gateways(bench, PODS, [A, B], WEB).outcome is outcome


def test_a_pod_that_is_seen_otherwise_does_not_keep_its_gateway(bench: FakeBench) -> None:
    bench.sources["client-1"] = A
    assert checks.keeps_its_gateway(bench, "client-1", A, WEB).outcome is Outcome.PASS
    assert checks.keeps_its_gateway(bench, "client-1", B, WEB).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("after", "outcome", "named"),
    [
        ((A, A, C), Outcome.PASS, "1 moved"),
        ((A, A, A), Outcome.FAIL, f"needlessly: client-3 as {A}"),
        ((A, B, C), Outcome.FAIL, "still without a gateway: client-2"),
        ((A, None, C), Outcome.FAIL, "still without a gateway: client-2"),
    ],
)
def test_only_pods_of_the_gateway_that_went_may_move(
    bench: FakeBench, after: tuple[str | None, ...], outcome: Outcome, named: str
) -> None:
    bench.sources.update(zip(PODS, after, strict=True))
    finding = checks.only_those_moved(bench, dict(zip(PODS, (A, B, C), strict=True)), [B], WEB)
    assert finding.outcome is outcome
    assert named in finding.observed


def test_every_pod_must_be_seen_as_noted(bench: FakeBench) -> None:
    bench.sources.update({"client-1": A, "client-2": B, "client-3": C})
    noted = {"client-1": A, "client-2": B, "client-3": C}
    assert checks.seen_as(bench, noted, WEB).outcome is Outcome.PASS
    assert checks.seen_as(bench, {**noted, "client-3": A}, WEB).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (None, Outcome.NOT_ATTEMPTED),
        (["client-2"], Outcome.PASS),
        ([], Outcome.FAIL),
        (["client-1", "client-2"], Outcome.FAIL),
    ],
)
def test_the_answer_names_exactly_those_that_preferred_the_gateway(
    bench: FakeBench, answer: list[str] | None, outcome: Outcome
) -> None:
    before = dict(zip(PODS, (A, B, C), strict=True))
    assert checks.who_moves(bench, answer, before, B).outcome is outcome
