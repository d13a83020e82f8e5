"""The checks of chapters 07 and 08: what a drill measured, and whom the kernels name as active."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace
from typing import Any

import pytest

from egresslab.lab.checks import chapter_07, chapter_08
from egresslab.lab.checks.model import Outcome
from egresslab.lab.entries import Entry
from tests.unit.lab.conftest import FakeBench

VIRTUAL, OTHER = "172.18.18.242", "172.18.18.12"


def drill(
    *,
    kept: int = 24,
    reset: int = 0,
    silent: int = 0,
    sources: tuple[str, ...] = (VIRTUAL,),
    gap_ms: float = 190.0,
    control_ms: float = 20.0,
    strangers: dict[str, int] | None = None,
    patience: float = 1.0,
) -> Any:
    connections = SimpleNamespace(kept=kept, reset=reset, silent=silent, moved=0, lost=reset + silent)
    seen = [SimpleNamespace(address=ipaddress.ip_address(source)) for source in sources]
    control = SimpleNamespace(gap_ms=control_ms)
    measured = SimpleNamespace(
        connections=connections, sources=seen, gap_ms=gap_ms, control=control, strangers=strangers or {}
    )
    return SimpleNamespace(measured=measured, patience=patience)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (drill(), Outcome.PASS),
        (drill(kept=23, silent=1), Outcome.FAIL),
        (drill(sources=(VIRTUAL, OTHER)), Outcome.FAIL),
        (drill(gap_ms=1200), Outcome.FAIL),
        (drill(gap_ms=1200, patience=10), Outcome.PASS),
        (drill(strangers={OTHER: 1}), Outcome.FAIL),
    ],
)
def test_kept_means_all_of_them_from_one_address_within_a_second(
    bench: FakeBench, found: Any, outcome: Outcome
) -> None:
    assert chapter_07.connections_kept(bench, found, VIRTUAL).outcome is outcome


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (drill(kept=0, silent=24), Outcome.PASS),
        (drill(kept=1, silent=23), Outcome.FAIL),
        (drill(kept=0, silent=24, strangers={OTHER: 3}), Outcome.FAIL),
    ],
)
def test_without_a_standby_all_is_lost_and_nothing_leaks(bench: FakeBench, found: Any, outcome: Outcome) -> None:
    assert chapter_07.connections_lost(bench, found).outcome is outcome


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (drill(kept=0, reset=24, sources=(OTHER, "172.18.18.14")), Outcome.PASS),
        (drill(kept=0, reset=23, silent=1, sources=(OTHER, "172.18.18.14")), Outcome.FAIL),
        (drill(kept=0, reset=24, sources=(OTHER,)), Outcome.FAIL),
    ],
)
def test_reset_means_that_none_is_left_hanging(bench: FakeBench, found: Any, outcome: Outcome) -> None:
    assert chapter_07.connections_reset(bench, found).outcome is outcome


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (drill(gap_ms=25), Outcome.PASS),
        (drill(gap_ms=130, control_ms=100), Outcome.PASS),
        (drill(gap_ms=130), Outcome.FAIL),
        (drill(gap_ms=365, control_ms=35, patience=10), Outcome.PASS),
        (drill(gap_ms=600, control_ms=35, patience=10), Outcome.FAIL),
        (drill(gap_ms=25, kept=23, reset=1), Outcome.FAIL),
    ],
)
def test_a_planned_move_is_judged_by_what_it_adds(bench: FakeBench, found: Any, outcome: Outcome) -> None:
    assert chapter_08.nothing_lost(bench, found, VIRTUAL).outcome is outcome


def rows(bench: FakeBench, gateway: str, shown_on: str) -> list[Entry]:
    pod, network = bench.pod("client-1").addresses[0], ipaddress.ip_network("0.0.0.0/0")
    return [
        Entry(
            node.name,
            pod,
            network,
            ipaddress.ip_address(VIRTUAL if node.name == shown_on else "0.0.0.0"),
            ipaddress.ip_address(gateway),
        )
        for node in bench.nodes
    ]


def test_the_active_node_is_named_by_all_and_shown_by_itself(bench: FakeBench) -> None:
    bench.rows = rows(bench, "192.168.60.12", "lab-worker2")
    assert chapter_08.active_in_the_kernel(bench, "lab-worker2", "client-1").outcome is Outcome.PASS
    assert chapter_08.active_in_the_kernel(bench, "lab-worker3", "client-1").outcome is Outcome.FAIL
    bench.rows = rows(bench, "192.168.60.12", "lab-worker3")
    assert chapter_08.active_in_the_kernel(bench, "lab-worker2", "client-1").outcome is Outcome.FAIL
    bench.rows = []
    assert chapter_08.active_in_the_kernel(bench, "lab-worker2", "client-1").outcome is Outcome.FAIL
