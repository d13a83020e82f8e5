"""Without files, policy commands read the cluster of a kubeconfig, and leave out kinds that it does not serve."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from egresslab.api.connection import Unreachable
from tests.unit.cli_policy.conftest import Run
from tests.unit.policy import build

SERVED = {
    "/api/v1/nodes": [build.node("gw", 2)],
    "/api/v1/pods": [build.pod("a", "10.0.0.1")],
    "/api/v1/namespaces": [build.namespace("default")],
    "/api/v1/services": [],
    "/apis/cilium.io/v2/ciliumegressgatewaypolicies": [build.cilium(), build.cilium("bad", destinationCIDRs=["x"])],
}


class Server(BaseHTTPRequestHandler):
    """Lists as an API server gives them: items without kind and apiVersion."""

    def do_GET(self) -> None:
        items = SERVED.get(self.path.partition("?")[0])
        bare = [{key: item[key] for key in item if key not in ("kind", "apiVersion")} for item in items or ()]
        found = {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": bare}
        status = {"kind": "Status", "reason": "NotFound", "message": "not served", "code": 404}
        self.send_response(200 if items is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(found if items is not None else status).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    # A thread, since the command under test runs an event loop of its own in this one.
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [
                    {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}},
                    {"name": "nobody", "cluster": {"server": "http://127.0.0.1:1"}},
                ],
                "contexts": [{"name": name, "context": {"cluster": name, "user": "u"}} for name in ("c", "nobody")],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    yield path
    server.shutdown()
    thread.join()
    server.server_close()


def test_entries_of_a_running_cluster(run: Run, kubeconfig: Path) -> None:
    result = run("entries", "--kubeconfig", kubeconfig, "--node", "gw", "-o", "json")
    assert [(row["source"], row["egress_ip"]) for row in json.loads(result.stdout)] == [("10.0.0.1", "192.168.60.2")]
    assert "ciliumegressgatewaypolicies/bad:1: CiliumEgressGatewayPolicy/bad: spec.destinationCIDRs[0]" in result.stderr
    assert result.exit_code == 1


def test_a_change_planned_against_a_running_cluster(run: Run, kubeconfig: Path, tmp_path: Path) -> None:
    eth1 = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "interface": "eth1"}
    change = tmp_path / "change.yaml"
    change.write_text(yaml.safe_dump(build.cilium(egressGateway=eth1)))
    text = run("plan", "-f", change, "--kubeconfig", kubeconfig).stdout
    assert "default/a (10.0.0.1) to 203.0.113.0/24: 192.168.60.2 => 172.18.18.2" in text


def test_another_context_is_another_cluster(run: Run, kubeconfig: Path) -> None:
    """One context is the current one; the other's server does not exist."""
    for arguments in (("entries",), ("lint",), ("explain", "a", "203.0.113.1")):
        named = run(*arguments, "--kubeconfig", kubeconfig, "--context", "c").stdout
        assert named == run(*arguments, "--kubeconfig", kubeconfig).stdout
        with pytest.raises(Unreachable):
            run(*arguments, "--kubeconfig", kubeconfig, "--context", "nobody")
