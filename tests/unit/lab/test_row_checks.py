"""What the checks of map entries say about complete, missing, wrong and surplus rows."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from egresslab.lab.checks import rows
from egresslab.lab.checks.model import Outcome
from egresslab.lab.entries import Entry
from tests.unit.lab.conftest import FakeBench, make_policy, right_rows


def check(bench: FakeBench) -> tuple[Outcome, str]:
    finding = rows.entries_on_every_node(bench, pod="client-1", policy="first-policy")
    return finding.outcome, finding.observed


def test_complete_rows_pass(bench: FakeBench) -> None:
    bench.policies, bench.rows = [make_policy()], right_rows(bench, "client-1")
    assert check(bench) == (Outcome.PASS, "9 rows, as expected")


def test_rows_of_other_pods_do_not_matter(bench: FakeBench) -> None:
    bench.policies = [make_policy()]
    bench.rows = right_rows(bench, "client-1") + right_rows(bench, "client-2")[:1]
    assert check(bench)[0] is Outcome.PASS


def test_a_node_without_a_row_is_named(bench: FakeBench) -> None:
    bench.policies = [make_policy()]
    bench.rows = [row for row in right_rows(bench, "client-1") if row.node != "lab-worker3"]
    outcome, observed = check(bench)
    assert outcome is Outcome.FAIL
    assert "lab-worker3 has no row for 203.0.113.0/24" in observed


def test_an_egress_ip_shown_elsewhere_than_on_the_gateway_fails(bench: FakeBench) -> None:
    bench.policies, bench.rows = [make_policy()], right_rows(bench, "client-1")
    bench.rows[0] = replace(bench.rows[0], egress=ipaddress.ip_address("172.18.18.12"))
    outcome, observed = check(bench)
    assert outcome is Outcome.FAIL
    assert "lab-worker says 172.18.18.12 via 192.168.60.12" in observed


def test_a_gateway_without_its_egress_ip_fails(bench: FakeBench) -> None:
    bench.policies, bench.rows = [make_policy()], right_rows(bench, "client-1")
    bench.rows = [
        replace(row, egress=ipaddress.ip_address("0.0.0.0")) if row.source.version == 4 else row for row in bench.rows
    ]
    outcome, observed = check(bench)
    assert outcome is Outcome.FAIL
    assert "lab-worker2 says 0.0.0.0" in observed


def test_a_row_that_no_policy_asks_for_fails(bench: FakeBench) -> None:
    bench.policies, bench.rows = [make_policy()], right_rows(bench, "client-1")
    first: Entry = bench.rows[0]
    bench.rows.append(replace(first, destination=ipaddress.ip_network("198.51.100.0/24")))
    assert check(bench)[0] is Outcome.FAIL


def test_rows_that_stay_after_the_policy_are_found(bench: FakeBench) -> None:
    assert rows.no_entries(bench, pod="client-1").outcome is Outcome.PASS
    bench.rows = right_rows(bench, "client-1")
    finding = rows.no_entries(bench, pod="client-1")
    assert (finding.outcome, "9 rows left" in finding.observed) == (Outcome.FAIL, True)
