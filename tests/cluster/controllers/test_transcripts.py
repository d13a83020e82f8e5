"""Sessions in tests/kubectl/controllers: what kubectl prints while scheduler, controllers and (hollow) nodes work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.cluster.apiserver.test_transcripts import columns, masked
from tests.cluster.controllers.conftest import Cluster

SESSIONS = sorted((Path(__file__).parents[2] / "kubectl" / "controllers").glob("*.yaml"))
LETTERS = "[bcdfghjklmnpqrstvwxz2456789]"
HASH = re.compile(rf"-{LETTERS}{{10}}\b")
POD = re.compile(rf"-HASH-{LETTERS}{{5}}\b")


@pytest.mark.parametrize("session", SESSIONS, ids=lambda path: path.stem)
async def test_session_prints_what_kubernetes_prints(session: Path, cluster: Cluster) -> None:
    namespace = f"ns-{session.stem}"
    await cluster.kubectl("create", "namespace", namespace)
    for number, step in enumerate(yaml.safe_load(session.read_text())):
        command = ["-n", namespace, *shlex.split(step["kubectl"])]
        code, output = await cluster.kubectl_says(*command, stdin=step.get("stdin"))
        where = f"{session.name} step {number}: kubectl {step['kubectl']}"
        assert code == step.get("exit", 0), f"{where}\n{output}"
        found = columns(POD.sub("-HASH-POD", HASH.sub("-HASH", masked(output, namespace))))
        if "prints" in step:
            assert found == columns(step["prints"].strip()), where
        for part in step.get("contains", ()):
            assert columns(part) in found, f"{where}\n{found}"


def test_there_are_sessions() -> None:
    assert {path.stem for path in SESSIONS} >= {"rollouts", "daemonsets", "nodes", "cascades"}
