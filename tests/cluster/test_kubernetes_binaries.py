"""A lab on Kubernetes' own API server: what is ours works on it as on the built-in one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from egresslab.cluster.assets import VARIABLE, Assets
from egresslab.errors import ClusterError
from tests.cluster.apiserver.conftest import run_kubectl
from tests.fresh_lab import fresh_lab


def test_a_directory_without_the_programs_is_named(tmp_path: Path) -> None:
    assert Assets.find({}) is None
    with pytest.raises(ClusterError) as caught:
        Assets.find({VARIABLE: str(tmp_path)})
    assert str(tmp_path) in str(caught.value)
    assert f"unset {VARIABLE}" in str(caught.value)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} is not set")
def test_pods_run_and_can_be_entered() -> None:
    with fresh_lab("assets-test") as lab:

        def kubectl(*words: str) -> str:
            done: subprocess.CompletedProcess[str] = run_kubectl(lab.kubeconfig(), *words)
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert "+egresslab" not in kubectl("version")
        kubectl("run", "client", "--image=curlimages/curl", "--command", "--", "sleep", "infinity")
        kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=20s")
        node = kubectl("get", "pod", "client", "-o", "jsonpath={.status.hostIP}")
        assert kubectl("exec", "client", "--", "curl", "-s", "http://192.168.60.13/").strip() == node
        assert kubectl("get", "pod", "client", "-o", "jsonpath={.metadata.labels.node}").startswith("lab-worker")
        kubectl("delete", "pod", "client", "--grace-period=1")
