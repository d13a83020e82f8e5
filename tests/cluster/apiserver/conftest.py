"""One API server for all tests that leave it whole, and a namespace of its own for each test."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes.dynamic import DynamicClient

from egresslab.api.crds import definitions
from egresslab.cluster.testing import RunningServer, api_server, running_server

__all__ = ["api_server"]

KUBECTL = Path(sys.executable).with_name("kubectl")
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


def run_kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real kubectl; its discovery cache lives beside the kubeconfig."""
    cache = ["--cache-dir", str(kubeconfig.parent / "cache"), "--kubeconfig", str(kubeconfig)]
    return subprocess.run(
        [str(KUBECTL), *cache, *arguments], input=stdin, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with our CRDs and a user without rights."""
    users = {"nobody": "", "system:node:n1": "system:nodes"}
    with running_server(tmp_path_factory.mktemp("apiserver"), users) as running:
        api = kubernetes.client.ApiextensionsV1Api(connect(running.kubeconfig))
        for definition in definitions():
            api.create_custom_resource_definition(definition)
        yield running


def connect(kubeconfig: Path) -> Any:
    """The official client."""
    return kubernetes.config.new_client_from_config(str(kubeconfig))


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Any:
    """The official client, as administrator."""
    return connect(server.kubeconfig)


@pytest.fixture(scope="session")
def core(client: Any) -> Any:
    """Its core API."""
    return kubernetes.client.CoreV1Api(client)


@pytest.fixture(scope="session")
def dynamic(client: Any) -> Any:
    """Its dynamic client, which learns kinds by discovery."""
    return DynamicClient(client)


@pytest.fixture
def namespace(core: Any) -> str:
    """A fresh namespace."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": name}})
    return name


@pytest.fixture
def kubectl(server: RunningServer, namespace: str) -> Kubectl:
    """kubectl in the test's namespace."""

    def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return run_kubectl(server.kubeconfig, "-n", namespace, *arguments, stdin=stdin)

    return run


def pod(name: str, **labels: str) -> dict[str, Any]:
    """A small pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "busybox"}]},
    }


def policy(name: str, **spec: Any) -> dict[str, Any]:
    """A CiliumEgressGatewayPolicy that is valid but for what `spec` says."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "destinationCIDRs": ["192.168.60.13/32"],
            "egressGateway": {"nodeSelector": {"matchLabels": {"egress-node": "true"}}},
            **spec,
        },
    }
