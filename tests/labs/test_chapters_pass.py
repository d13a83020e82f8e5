"""Chapters pass in any order and with their variants, and leave nothing behind.

`make labs` runs them all as they stand; here are the ways that it does not go.
"""

from __future__ import annotations

import pytest

from egresslab.lab import chapters
from egresslab.lab.runner.judge import Result
from tests.labs.conftest import RunChapters

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOME = chapters.home()


@pytest.mark.timeout(180)
async def test_the_first_policy_by_egress_ip_from_another_gateway(run_chapters: RunChapters) -> None:
    [run] = await run_chapters(
        [HOME / "02-the-first-policy.ipynb"], source="egressIP", gateway="lab-worker3", egress_ip="172.18.18.14"
    )
    assert (run.result, run.reason) == (Result.PASSED, "")
    seen = {check["observed"] for check in run.checks if check["id"] == "source-is-egress-ip"}
    assert any("172.18.18.14" in text for text in seen)


@pytest.mark.timeout(180)
async def test_the_problem_on_other_nodes_after_the_first_policy(run_chapters: RunChapters) -> None:
    [run] = await run_chapters([HOME / "01-the-problem.ipynb"], home="lab-worker3", elsewhere="lab-worker")
    assert (run.result, run.reason) == (Result.PASSED, "")
