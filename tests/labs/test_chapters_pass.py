"""Every chapter passes as it stands, in any order, with each of its variants, and leaves nothing behind."""

from __future__ import annotations

import pytest

from egresslab.lab import chapters
from egresslab.lab.runner.judge import Result
from tests.labs.conftest import RunChapters

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOME = chapters.home()


@pytest.mark.timeout(300)
async def test_chapters_pass_in_reverse_order(run_chapters: RunChapters) -> None:
    paths = sorted(HOME.glob("[0-9]*.ipynb"), reverse=True)
    runs = await run_chapters(paths)
    assert [(run.chapter.id, run.result, run.reason) for run in runs] == [
        (path.stem, Result.PASSED, "") for path in paths
    ]
    assert all(run.checks for run in runs)


@pytest.mark.timeout(180)
async def test_the_first_policy_by_egress_ip_from_another_gateway(run_chapters: RunChapters) -> None:
    [run] = await run_chapters(
        [HOME / "02-the-first-policy.ipynb"], source="egressIP", gateway="lab-worker3", egress_ip="172.18.18.14"
    )
    assert (run.result, run.reason) == (Result.PASSED, "")
    seen = {check["observed"] for check in run.checks if check["id"] == "source-is-egress-ip"}
    assert any("172.18.18.14" in text for text in seen)
