"""The checks of chapter 10: two witnesses that agree, and each way in which they may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from egresslab.flows.flow import Event, Flow, Side, Verdict
from egresslab.lab.checks import chapter_10 as chapter
from egresslab.lab.checks.model import Outcome
from egresslab.lab.observe import Flows
from egresslab.lab.terminal import CommandResult
from tests.unit.lab.conftest import FakeBench, bench

__all__ = ["bench"]

WEB, PARTNER = "http://203.0.113.10/", "http://203.0.113.20/"
GATEWAY = "lab-worker2"


def flow(
    pod: str = "client-1", url: str = WEB, egress: str | None = "172.18.18.12", node: str = GATEWAY, reason: str = ""
) -> Flow:
    return Flow(
        time_ns=0,
        node=node,
        event=Event.DROPPED if reason else Event.OPENED,
        verdict=Verdict.DROPPED if reason else Verdict.FORWARDED,
        protocol="TCP",
        namespace="demo",
        pod=pod,
        source=Side(ip_address("10.244.1.1"), 4000),
        destination=Side(ip_address(url.split("/")[2]), 80),
        egress=Side(ip_address(egress), 4000) if egress else None,
        gateway=node,
        reason=reason,
    )


@dataclass
class Observed(FakeBench):
    """A bench whose agents have told `told`, and count pings as `counted`."""

    told: list[Flow] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    pinged: bool = False

    def observe(self, pod: str = "", **wanted: str) -> Flows:
        return Flows.of((each for each in self.told if pod in ("", each.pod)), "egresslab observe")

    def exec(self, pod: str, command: str | Sequence[str], *, check: bool = True, show: bool = True) -> CommandResult:
        self.pinged |= command[0] == "ping"
        text = "".join(
            f'egresslab_packets_total{{outcome="{name}"}} {100 + self.pinged * number}\n'
            for name, number in self.counted.items()
        )
        return CommandResult("", text, "", 0)


@pytest.fixture
def observed(bench: FakeBench) -> Observed:
    return Observed(bench.pods, bench.nodes, sources={"client-1": "172.18.18.12"})


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        ([flow()], Outcome.PASS),
        ([flow(egress="192.168.60.11"), flow()], Outcome.PASS),
        ([flow(), flow(egress="192.168.60.11")], Outcome.FAIL),
        ([flow(node="lab-worker")], Outcome.FAIL),
        ([flow(url=PARTNER)], Outcome.FAIL),
        ([], Outcome.FAIL),
    ],
)
def test_the_newest_flow_agrees_with_the_server(observed: Observed, told: list[Flow], outcome: Outcome) -> None:
    observed.told = told
    assert chapter.flow_tells_the_truth(observed, "client-1", WEB, GATEWAY).outcome is outcome


@pytest.mark.parametrize(
    ("source", "told", "outcome"),
    [
        (None, [flow(reason="NO_GATEWAY", node="lab-worker", egress=None)], Outcome.PASS),
        ("172.18.18.12", [flow(reason="NO_GATEWAY", node="lab-worker", egress=None)], Outcome.FAIL),
        (None, [flow(reason="NO_ROUTE", node="lab-worker", egress=None)], Outcome.FAIL),
        (None, [flow(reason="NO_GATEWAY", egress=None)], Outcome.FAIL),
        (None, [], Outcome.FAIL),
    ],
)
def test_a_drop_has_no_answer_and_a_reason(
    observed: Observed, source: str | None, told: list[Flow], outcome: Outcome
) -> None:
    observed.sources["client-1"], observed.told = source, told
    assert chapter.drop_has_a_reason(observed, "client-1", WEB, "NO_GATEWAY", "lab-worker").outcome is outcome


@pytest.mark.parametrize(
    ("counted", "outcome"),
    [
        ({"TRANSLATED": 5, "STEERED": 5}, Outcome.PASS),
        ({"TRANSLATED": 5, "STEERED": 0}, Outcome.FAIL),
        ({}, Outcome.FAIL),
    ],
)
def test_counters_grow_by_what_was_sent(observed: Observed, counted: dict[str, int], outcome: Outcome) -> None:
    observed.counted = counted
    assert chapter.counters_count(observed, "client-1", "203.0.113.10", GATEWAY).outcome is outcome


ANSWER = {"pod": "client-2", "destination": "example.com", "reason": "no_egress_ip"}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (None, Outcome.NOT_ATTEMPTED),
        (ANSWER, Outcome.PASS),
        (ANSWER | {"pod": "demo/client-2", "reason": "NO_EGRESS_IP"}, Outcome.PASS),
        (ANSWER | {"pod": "client-1"}, Outcome.FAIL),
        (ANSWER | {"destination": "ifconfig.me"}, Outcome.FAIL),
        (ANSWER | {"reason": "NO_GATEWAY"}, Outcome.FAIL),
        ({"pod": "client-2"}, Outcome.FAIL),
    ],
)
def test_pod_destination_and_reason_are_asked_of_packets(
    observed: Observed, answer: dict[str, str] | None, outcome: Outcome
) -> None:
    observed.sources = {"client-2": None}
    observed.told = [flow("client-2", PARTNER, None, reason="NO_EGRESS_IP")]
    found = chapter.who_is_dropped(observed, answer, ["client-1", "client-2"], {"example.com": PARTNER})
    assert found.outcome is outcome


def test_who_is_dropped_is_nobody_when_all_have_answers(observed: Observed) -> None:
    found = chapter.who_is_dropped(observed, ANSWER, ["client-1", "client-2"], {"example.com": PARTNER})
    assert (found.outcome, found.observed) == (Outcome.FAIL, "everybody has an answer")
