"""What kubectl prints: each file in tests/kubectl is a session in a fresh namespace, masked where it varies."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from egresslab.cluster.testing import RunningServer
from tests.cluster.apiserver.conftest import run_kubectl

FOLDER = Path(__file__).parents[2] / "kubectl"
SESSIONS = sorted(FOLDER.glob("*.yaml"))
_MASKS = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "UID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r'resourceVersion: "\d+"'), 'resourceVersion: "N"'),
    (re.compile(r"(?<=\s)(\d+[smhd]){1,2}(?=\s|$)"), "AGE"),
    (re.compile(r"https://127\.0\.0\.1:\d+"), "SERVER"),
    (re.compile(r" +$", re.MULTILINE), ""),
)


def masked(text: str, namespace: str) -> str:
    """The text without what changes from run to run."""
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    return text.replace(namespace, "NAMESPACE").strip()


def columns(text: str) -> str:
    """Widths of columns do not count: an age is as wide as it is old."""
    return re.sub(r"[ \t]{2,}", "  ", text)


@pytest.mark.parametrize("session", SESSIONS, ids=lambda path: path.stem)
def test_session_prints_what_kubernetes_prints(session: Path, server: RunningServer, namespace: str) -> None:
    for number, step in enumerate(yaml.safe_load(session.read_text())):
        command = ["-n", namespace, *shlex.split(step["kubectl"].replace("NAMESPACE", namespace))]
        done = run_kubectl(server.kubeconfig, *command, stdin=step.get("stdin"))
        where = f"{session.name} step {number}: kubectl {step['kubectl']}"
        assert done.returncode == step.get("exit", 0), f"{where}\n{done.stdout}{done.stderr}"
        found = columns(masked(done.stdout + done.stderr, namespace))
        if "prints" in step:
            assert found == columns(step["prints"].strip()), where
        for part in step.get("contains", ()):
            assert columns(part) in found, f"{where}\n{found}"


def test_there_are_sessions() -> None:
    assert SESSIONS
