"""A lab on a real cluster of Kind: it comes up, is used again, its chapters pass, and nothing of it stays.

Left out of `make test`; `make test-kind` runs it. Without a registry, environments/kind/airgap builds what
it needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from egresslab.environments.base import Phase, Silent
from egresslab.environments.kind.commands import Commands
from egresslab.environments.kind.environment import IMAGE, KindEnvironment
from egresslab.environments.kind.plan import LABEL, Datapath
from egresslab.environments.kind.preflight import examine
from egresslab.environments.kind.versions import pinned
from egresslab.environments.netns.doctor import Verdict
from egresslab.errors import EnvironmentFailure

pytestmark = pytest.mark.kind
LAB = "test-kind"
CHAPTERS = ("01", "02", "04", "06", "07", "08", "09")
COMMANDS = Commands()


def why_not() -> str:
    """What is missing, or nothing."""
    node_image = os.environ.get("EGRESSLAB_KIND_NODE_IMAGE") or pinned()["NODE_IMAGE"]
    found = examine(COMMANDS, Datapath.EGRESSLAB, node_image=node_image, image=IMAGE, chart="")
    missing = [f"{finding.name}: {finding.found}" for finding in found if finding.verdict is Verdict.MISSING]
    if not missing and COMMANDS.inspect("image", node_image) is None:
        try:
            COMMANDS.docker("pull", "--quiet", node_image, timeout_s=600)
        except EnvironmentFailure as error:
            missing.append(f"node image: {error.message} (environments/kind/airgap builds one)")
    return "; ".join(missing)


@pytest.fixture(scope="module")
def lab() -> Iterator[KindEnvironment]:
    """The lab, taken down at the end."""
    if reason := why_not():
        pytest.skip(reason)
    environment = KindEnvironment(LAB)
    try:
        environment.create(Silent())
        yield environment
    finally:
        environment.delete(Silent())
        mine = ("--filter", f"label={LABEL}={LAB}", "--quiet")
        assert COMMANDS.docker("ps", "--all", *mine) == COMMANDS.docker("network", "ls", *mine) == ""
        assert "egresslab-test-kind" not in COMMANDS.run("kind", "get", "clusters")


def test_it_is_up_and_a_second_run_changes_nothing(lab: KindEnvironment) -> None:
    assert lab.status().phase is Phase.RUNNING
    assert not lab.create(Silent()).changed


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_passes(lab: KindEnvironment, chapter: str, tmp_path: Path) -> None:
    limits = ("--cell-timeout", "300", "--wait-timeout", "240", "--chapter-timeout", "900")
    where = ("--environment", "kind", "--lab", LAB, "--out", str(tmp_path))
    words = [sys.executable, "-m", "egresslab.cli.main", "labs", "run", chapter, *where, *limits]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
