"""Row by row, the map of a Cilium node: situations with the rows that they must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from egresslab.policy.cases import run
from egresslab.policy.settings import Fidelity, Settings

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "cilium-cases.json").read_text())
COLUMNS = ("source", "destination", "egress_ip", "gateway_ip", "egress_interface")


@pytest.mark.parametrize("fidelity", Fidelity)
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_rows_of_the_observed_node(case: dict[str, Any], fidelity: Fidelity) -> None:
    outcome = run(case, Settings(fidelity=fidelity))
    found = [tuple(row.as_dict()[column] for column in COLUMNS) for row in outcome.rows]
    expected = [tuple(entry[column] for column in COLUMNS) for entry in case["expected_entries"]]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert bool(outcome.refused) is (case.get("policy_accepted") is False)
