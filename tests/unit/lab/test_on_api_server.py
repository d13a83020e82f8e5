"""The lab against a real API server: what it makes, what it says about it, what it takes away again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from egresslab.api import connection
from egresslab.api.resources import CILIUM_POLICIES, CONFIGMAPS, NAMESPACES, NODES, PODS
from egresslab.cluster.testing import RunningServer, running_server
from egresslab.errors import LabError
from egresslab.lab import Lab
from egresslab.lab.checks.grader import Mode
from egresslab.lab.client import Client
from egresslab.lab.ownership import RUN_LABEL
from egresslab.lab.runner import leaks
from tests.unit.lab.conftest import make_policy

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ciliumegressgatewaypolicies.cilium.io}
spec:
  group: cilium.io
  scope: Cluster
  names: {kind: CiliumEgressGatewayPolicy, plural: ciliumegressgatewaypolicies, singular: ciliumegressgatewaypolicy}
  versions:
  - name: v2
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-preserve-unknown-fields: true
            properties:
              destinationCIDRs: {type: array, items: {type: string}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """An API server with one node, a namespace `outside`, and the definition of Cilium's policy."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        with Lab(Client(running.kubeconfig), chapter="setup", mode=Mode.LEARN, timeout_s=10) as lab:
            lab._client.apply(
                NODES,
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": "n1", "labels": {"rack": "a"}},
                },
            )
            outside = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "outside"}}
            lab._client.apply(NAMESPACES, outside)
            lab.kubectl("apply -f -", stdin=DEFINITION)
            lab.wait_for("the kind", lambda: lab._client.list(CILIUM_POLICIES) == [])
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    """A connection of the test's own."""
    client = Client(server.kubeconfig)
    yield client
    client.close()


@pytest.fixture
def lab(server: RunningServer) -> Iterator[Lab]:
    """A lab whose run is called `r1`."""
    with Lab(Client(server.kubeconfig), chapter="02-the-first-policy", mode=Mode.LEARN, timeout_s=10, run="r1") as lab:
        yield lab


def test_a_namespace_is_fresh_each_time_and_used_from_then_on(lab: Lab) -> None:
    first, second = lab.namespace(), lab.namespace()
    assert first != second
    assert first.startswith("the-first-policy-")
    assert lab.current_namespace == second


def test_apply_says_created_unchanged_configured(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.namespace()
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    capsys.readouterr()
    for data in ({"a": "1"}, {"a": "1"}, {"a": "2"}):
        lab.apply({**config, "data": data})
    lab.apply(make_policy())
    assert capsys.readouterr().out.splitlines() == [
        "configmap/c created",
        "configmap/c unchanged",
        "configmap/c configured",
        "ciliumegressgatewaypolicy.cilium.io/first-policy created",
    ]


def test_objects_go_to_the_current_namespace(lab: Lab, client: Client) -> None:
    name = lab.namespace()
    lab.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1'}")
    assert client.get(CONFIGMAPS, "c", name)["data"] == {"a": "1"}
    lab.delete("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}")
    assert client.find(CONFIGMAPS, "c", name) is None


def test_the_api_servers_refusal_names_the_field(lab: Lab) -> None:
    with pytest.raises(connection.ApiError, match="destinationCIDRs"):
        lab.apply({**make_policy(), "spec": {**make_policy()["spec"], "destinationCIDRs": "0.0.0.0/0"}})


def test_a_kind_that_is_not_served_says_what_is(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"no such kind in v1 .*Pod"):
        lab.apply({"apiVersion": "v1", "kind": "Pot", "metadata": {"name": "a"}})
    with pytest.raises(LabError, match=r"no such kind in moon\.example/v1"):
        lab.apply({"apiVersion": "moon.example/v1", "kind": "Pot", "metadata": {"name": "a"}})


def test_kubectl_uses_the_current_namespace_and_prints_like_a_terminal(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    name = lab.namespace()
    capsys.readouterr()
    assert lab.kubectl("create configmap here").exit_code == 0
    assert capsys.readouterr().out == "$ kubectl create configmap here\nconfigmap/here created\n"
    assert str(lab.kubectl(f"get configmaps -n {name} -o name")) == "configmap/here"


def test_a_failing_kubectl_raises_with_its_output_unless_told(lab: Lab) -> None:
    lab.namespace()
    with pytest.raises(LabError, match=r'kubectl get pod nobody: exit code 1: .*"nobody" not found'):
        lab.kubectl("get pod nobody")
    assert lab.kubectl("get pod nobody", check=False).exit_code == 1


def test_a_pod_that_does_not_become_ready_says_how_far_it_got(lab: Lab) -> None:
    lab.namespace()
    with pytest.raises(LabError, match=r"waited 0\.3 s for pod client to be Ready; last seen: Pending"):
        lab.run_pod("client", node="n1", timeout_s=0.3)


def test_cleanup_removes_what_was_made_and_puts_labels_back(lab: Lab, client: Client) -> None:
    before = leaks.snapshot(client)
    name = lab.namespace()
    lab.apply(make_policy())
    lab.label_node("n1", "rack", "b")
    lab.label_node("n1", "rack", "c")
    lab.label_node("n1", "egress-node", "true")
    assert "label rack=c of node n1" in leaks.snapshot(client).beyond(before)
    # Nothing finishes namespaces here, so the check that they are gone is left out.
    lab._ledger.objects.remove(next(owned for owned in lab._ledger.objects if owned.resource == NAMESPACES))
    lab.cleanup()
    assert {key: value for key, value in lab.node("n1").labels.items() if key in ("rack", "egress-node")} == {
        "rack": "a"
    }
    assert client.list(CILIUM_POLICIES) == []
    client.delete(NAMESPACES, name)
    assert not client.get(NODES, "n1")["metadata"].get("annotations")


def test_the_runner_undoes_what_a_dead_chapter_recorded(lab: Lab, client: Client) -> None:
    before = leaks.snapshot(client)
    lab.apply(make_policy())
    lab.label_node("n1", "rack", "b")
    lab.firewall._write({"allow": "192.0.2.1"}, "r1")
    name = lab.namespace()
    assert client.get(NAMESPACES, name)["metadata"]["labels"][RUN_LABEL] == "r1"
    left = leaks.snapshot(client).beyond(before)
    assert {"CiliumEgressGatewayPolicy first-policy", f"Namespace {name}", "label rack=b of node n1"} <= set(left)
    assert any("firewall outside" in text for text in left)
    assert leaks.reap(client, "another") == ()
    reaped = leaks.reap(client, "r1")
    assert {"CiliumEgressGatewayPolicy first-policy", f"Namespace {name}", "label rack of node n1"} <= set(reaped)
    assert "the allow-list outside" in reaped
    assert lab.node("n1").labels["rack"] == "a"
    lab._ledger.objects.clear()
    lab._ledger.labels.clear()


def test_the_firewalls_list_is_put_back_as_it_was(lab: Lab, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["2026-01-01T00:00:00Z firewall off"]
    monkeypatch.setattr(lab.firewall, "_lines", lambda: lines)
    write = lab.firewall._write

    def answered(data: dict[str, str], run: str | None) -> None:
        write(data, run)
        lines.append("2026-01-01T00:00:01Z firewall on: allow something")

    monkeypatch.setattr(lab.firewall, "_write", answered)
    assert lab.firewall.allowed() is None
    lab.firewall.allow(["192.168.60.11", "fd00:60::/64"], servers=["external"])
    assert [str(network) for network in lab.firewall.allowed() or ()] == ["192.168.60.11/32", "fd00:60::/64"]
    lab.firewall.allow(["192.168.60.12"])
    assert "servers" not in client.get(CONFIGMAPS, "firewall", "outside")["data"]
    lab.close()
    assert client.find(CONFIGMAPS, "firewall", "outside") is None


def test_a_kubeconfig_that_is_not_there() -> None:
    with pytest.raises(LabError, match="egresslab up"):
        Client(Path("/nowhere/kubeconfig"))


def test_a_server_that_does_not_answer(tmp_path: Path, server: RunningServer) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(server.kubeconfig.read_text().replace(server.url, "https://127.0.0.1:9"))
    with pytest.raises(connection.Unreachable, match="did not answer"):
        Client(path).list(PODS)
