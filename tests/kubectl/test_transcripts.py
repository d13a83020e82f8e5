"""What kubectl prints: each file here is a session in a fresh namespace, masked where it varies.

Sessions in this folder talk to an API server alone, those in `controllers/` to one with scheduler, controllers and
hollow nodes. Where `KUBEBUILDER_ASSETS` is set every session is held by Kubernetes' own API server too. A step
marked `only: built-in` is about what the built-in one leaves out.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import yaml

from egresslab.api.crds import definitions
from egresslab.cluster.assets import VARIABLE, Assets
from egresslab.cluster.testing import RunningServer, running_server
from tests.cluster.apiserver.conftest import run_kubectl
from tests.cluster.controllers.conftest import hollow_cluster

FOLDER = Path(__file__).parent
ALONE = sorted(FOLDER.glob("*.yaml"))
CONTROLLED = sorted((FOLDER / "controllers").glob("*.yaml"))
BUILT_IN, KUBERNETES = "built-in", "kubernetes"
SERVERS = [
    BUILT_IN,
    pytest.param(KUBERNETES, marks=pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} is not set")),
]
USERS = {"nobody": "", "system:node:n1": "system:nodes"}
_LETTERS = "[bcdfghjklmnpqrstvwxz2456789]"
_MASKS = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "UID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r'resourceVersion: "\d+"'), 'resourceVersion: "N"'),
    (re.compile(r"(?<=\s)(\d+[smhd]){1,2}(?=\s|$)"), "AGE"),
    (re.compile(r"https://127\.0\.0\.1:\d+"), "SERVER"),
    (re.compile(rf"-{_LETTERS}{{8,10}}(?=\b|-)"), "-HASH"),
    (re.compile(rf"-HASH-{_LETTERS}{{5}}\b"), "-HASH-POD"),
    (re.compile(r" +$", re.MULTILINE), ""),
)
Run = Callable[..., Awaitable[tuple[int, str]]]


def masked(text: str, namespace: str) -> str:
    """The text without what changes from run to run, widths of columns (an age is as wide as it is old) included."""
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    return re.sub(r"[ \t]{2,}", "  ", text.replace(namespace, "NAMESPACE").strip())


def expected(text: str) -> str:
    """What a session says, in the same form."""
    return re.sub(r"[ \t]{2,}", "  ", text.strip())


def test_masks_leave_words_alone() -> None:
    assert masked("deployment-web web-7f4c8d9b5x-x2x4z 5m10s", "ns") == "deployment-web web-HASH-POD  5m10s".replace(
        "  5m10s", " AGE"
    )


async def play(session: Path, namespace: str, kubectl: Run, server: str) -> None:
    """Type every command of a session and compare."""
    for number, step in enumerate(yaml.safe_load(session.read_text())):
        if step.get("only", server) != server:
            continue
        words = shlex.split(step["kubectl"].replace("NAMESPACE", namespace))
        stdin = step.get("stdin", "").replace("NAMESPACE", namespace) or None
        code, output = await kubectl("-n", namespace, *words, stdin=stdin)
        where = f"{session.name} step {number}: kubectl {step['kubectl']}"
        assert code == step.get("exit", 0), f"{where}\n{output}"
        found = masked(output, namespace)
        if "prints" in step:
            assert found == expected(step["prints"]), f"{where}\n{output}"
        for part in step.get("contains", ()):
            assert expected(part) in found, f"{where}\n{found}"
        for part in step.get("lacks", ()):
            assert expected(part) not in found, f"{where}\n{found}"


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """An API server of either kind, with our definitions and users without rights."""
    assets = Assets.find() if request.param == KUBERNETES else None
    with running_server(tmp_path_factory.mktemp("api"), USERS, assets=assets) as running:
        for definition in definitions():
            run_kubectl(running.kubeconfig, "create", "-f", "-", stdin=json.dumps(definition))
        run_kubectl(running.kubeconfig, "wait", "--for=condition=Established", "crd", "--all")
        # What kubectl has learnt of the API is from before.
        shutil.rmtree(running.directory / "cache")
        yield running


@pytest.mark.parametrize("session", ALONE, ids=lambda path: path.stem)
async def test_an_api_server_alone(session: Path, server: RunningServer, request: pytest.FixtureRequest) -> None:
    namespace = f"ns-{session.stem}"

    async def kubectl(*words: str, stdin: str | None = None) -> tuple[int, str]:
        done = await asyncio.to_thread(run_kubectl, server.kubeconfig, *words, stdin=stdin)
        return done.returncode, done.stdout + done.stderr

    await kubectl("create", "namespace", namespace)
    kind = KUBERNETES if len(server.commands) > 1 else BUILT_IN
    await play(session, namespace, kubectl, kind)


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("session", CONTROLLED, ids=lambda path: path.stem)
async def test_a_cluster_that_works(session: Path, kind: str, tmp_path: Path) -> None:
    namespace = f"ns-{session.stem}"
    async with hollow_cluster(tmp_path, assets=Assets.find() if kind == KUBERNETES else None) as cluster:
        await cluster.kubectl("create", "namespace", namespace)
        await play(session, namespace, cluster.kubectl_says, kind)


def test_there_are_enough_commands() -> None:
    steps = [step for path in (*ALONE, *CONTROLLED) for step in yaml.safe_load(path.read_text())]
    assert len([step for step in steps if step.get("only") != BUILT_IN]) >= 120
