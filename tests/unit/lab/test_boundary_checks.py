"""What the checks at the firewall and on the wire say."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from egresslab.lab.checks import boundary
from egresslab.lab.checks.model import Outcome
from egresslab.lab.firewall import Contact
from tests.unit.lab.conftest import FakeBench, FakeFirewall, make_policy


def test_without_a_list_nothing_was_attempted(bench: FakeBench) -> None:
    assert boundary.outside_admits(bench, pod="client-1").outcome is Outcome.NOT_ATTEMPTED
    assert boundary.outside_refuses(bench, pod="client-1").outcome is Outcome.NOT_ATTEMPTED


def test_a_listed_node_admits_its_pods_and_no_others(bench: FakeBench) -> None:
    bench.firewall = FakeFirewall(("192.168.60.11/32",))
    assert boundary.outside_admits(bench, pod="client-1").outcome is Outcome.PASS
    assert boundary.outside_refuses(bench, pod="client-1").outcome is Outcome.FAIL
    assert boundary.outside_admits(bench, pod="client-2").outcome is Outcome.FAIL
    finding = boundary.outside_refuses(bench, pod="client-2")
    assert finding.outcome is Outcome.PASS
    assert "log: refused 192.168.60.12" in finding.observed


def test_all_pods_have_to_be_admitted(bench: FakeBench) -> None:
    bench.firewall = FakeFirewall(("192.168.60.11/32", "192.168.60.12/32"))
    assert boundary.outside_admits(bench, pod=list(bench.pods)).outcome is Outcome.FAIL
    bench.firewall = FakeFirewall(("192.168.60.0/24",))
    assert boundary.outside_admits(bench, pod=list(bench.pods)).outcome is Outcome.PASS


def test_silence_without_a_line_in_the_log_is_no_refusal(bench: FakeBench) -> None:
    bench.firewall = FakeFirewall(("192.168.60.11/32",))
    bench.sources["client-2"] = None
    assert boundary.outside_refuses(bench, pod="client-2").outcome is Outcome.FAIL


def test_old_lines_and_lines_about_other_nodes_do_not_count(bench: FakeBench) -> None:
    bench.firewall = FakeFirewall(("192.168.60.11/32",))
    bench.sources["client-2"] = None
    old, other = datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC)
    destination = "192.168.60.13:80"
    bench.firewall.contacts = [
        Contact(old, False, "tcp", ipaddress.ip_address("192.168.60.12"), destination),
        Contact(other, False, "tcp", ipaddress.ip_address("192.168.60.14"), destination),
    ]
    assert boundary.outside_refuses(bench, pod="client-2").outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        ({"172.18.18.12": 12, "fd00:18::12": 9}, Outcome.PASS),
        ({"172.18.18.12": 12, "192.168.60.11": 1}, Outcome.FAIL),
        ({"10.244.1.1": 3}, Outcome.FAIL),
        ({}, Outcome.NOT_ATTEMPTED),
    ],
)
def test_any_other_address_on_the_wire_fails(bench: FakeBench, seen: dict[str, int], outcome: Outcome) -> None:
    bench.policies = [make_policy()]
    sources = {ipaddress.ip_address(address): count for address, count in seen.items()}
    capture: Any = SimpleNamespace(sources=sources, typed="kubectl …")
    assert boundary.wire_shows_only_egress_ip(bench, capture=capture, policy="first-policy").outcome is outcome
