"""The checks that chapters 01 and 02 have for themselves."""

from __future__ import annotations

from egresslab.lab.checks import catalogue
from egresslab.lab.checks.chapter_01 import admit_everywhere
from egresslab.lab.checks.model import Outcome
from tests.unit.lab.conftest import FakeBench

PODS = ["client-1", "client-2", "client-3"]
URL = "http://192.168.60.13/"


def outcome(bench: FakeBench, *listed: str) -> Outcome:
    bench.firewall.listed = listed
    return admit_everywhere(bench, PODS, URL).outcome


def test_a_list_with_every_node_admits_the_application_everywhere(bench: FakeBench) -> None:
    assert outcome(bench, "192.168.60.0/24") is Outcome.PASS
    assert outcome(bench, "192.168.60.11/32", "192.168.60.12/32", "192.168.60.14/32") is Outcome.PASS


def test_a_list_that_misses_a_node_fails(bench: FakeBench) -> None:
    assert outcome(bench, "192.168.60.11/32", "192.168.60.12/32") is Outcome.FAIL


def test_the_list_of_the_chapter_is_no_attempt(bench: FakeBench) -> None:
    assert outcome(bench, "192.168.60.11/32") is Outcome.NOT_ATTEMPTED


def test_the_second_policy_is_checked_by_its_address() -> None:
    assert catalogue.find("second-policy", "02-the-first-policy").probe.__name__ == "source_is_address"


def test_no_chapter_hides_a_shared_check_behind_one_of_its_own() -> None:
    found = catalogue.everything()
    shared = {check.id for check in found.pop("")}
    for number, checks in found.items():
        ids = [check.id for check in checks]
        assert len(set(ids)) == len(ids), number
        assert not shared & set(ids), number
