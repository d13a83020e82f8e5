"""helm, where it is there, and what a chart renders to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from egresslab.cluster.assets import VARIABLE, Assets
from egresslab.cluster.testing import RunningServer, running_server

CHART = Path(__file__).resolve().parents[2] / "deploy" / "chart"
NEWEST = "1.37.1"
Object = dict[str, Any]


@dataclass(frozen=True)
class Helm:
    """helm with its own directories, so that no test sees another's or the user's."""

    program: str
    home: Path

    def run(self, *words: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HELM_DRIVER": "configmap",
            **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}),
        }
        return subprocess.run(
            [self.program, *words], capture_output=True, text=True, timeout=90, env=environment, check=False
        )

    def template(self, *words: str) -> list[Object]:
        """What the chart renders to, hooks included."""
        done = self.run(
            "template", "egresslab", str(CHART), "--namespace", "kube-system", "--kube-version", NEWEST, *words
        )
        assert done.returncode == 0, done.stderr
        return [obj for obj in yaml.safe_load_all(done.stdout) if obj]


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm; skips where there is none."""
    program = os.environ.get("HELM") or shutil.which("helm")
    if program is None:
        pytest.skip(
            "helm is not installed (go install helm.sh/helm/v3/cmd/helm@VERSION of environments/kind/versions.env)"
        )
    return Helm(program, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def rendered(helm: Helm) -> list[Object]:
    """Everything the chart can bring."""
    return helm.template("--set", "podNodeLabel.mode=policy")


@pytest.fixture(scope="session")
def find(rendered: list[Object]) -> Callable[[str, str], Object]:
    """One rendered object by kind and name."""

    def one(kind: str, name: str) -> Object:
        (found,) = [obj for obj in rendered if obj["kind"] == kind and obj["metadata"]["name"] == name]
        return found

    return one


@pytest.fixture(scope="session", params=["built-in", "kubernetes"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The lab's API server, then Kubernetes' own where its programs are."""
    assets = None
    if request.param == "kubernetes":
        if not os.environ.get(VARIABLE):
            pytest.skip(f"{VARIABLE} is not set (docs/kubernetes-binaries.md)")
        assets = Assets.find()
    with running_server(tmp_path_factory.mktemp("api"), assets=assets) as running:
        yield running
