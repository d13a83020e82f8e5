"""Pods' addresses and ways: between pods, out of the cluster, names, and plug-ins that hold a pod back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer

import pytest

from .conftest import Cluster, pod, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def pair(cluster: Cluster) -> Iterator[dict[str, dict[str, str]]]:
    """Pods `a` on n1 and `b` on n2, by IP version: {"a": {"4": …, "6": …}, …}."""
    cluster.apply(pod("a", "sleep", "1000"), pod("b", "sleep", "1000", node="n2", image="nginx"))
    cluster.apply(pod("web-b", node="n2", image="nginx"))
    addresses = {}
    for name in ("a", "b", "web-b"):
        first, second = (item["ip"] for item in cluster.ready(name)["status"]["podIPs"])
        addresses[name] = {"4": first, "6": second}
    yield addresses
    for name in addresses:
        cluster.delete(name)


def _seen_source(cluster: Cluster, target: str) -> str:
    """The last client address in web-b's log after asking it at `target`."""
    host = f"[{target}]" if ":" in target else target
    cluster.exec("a", "wget", "-q", "-O", "/dev/null", f"http://{host}/")
    return until(lambda: cluster.kubectl("logs", "web-b", "--tail=1").stdout, "a line in the log").split()[0]


@pytest.mark.parametrize("version", ["4", "6"])
def test_pods_on_two_nodes_see_each_others_addresses(
    cluster: Cluster, pair: dict[str, dict[str, str]], version: str
) -> None:
    """Routed, not translated, in both families; routes come from the Node objects."""
    assert _seen_source(cluster, pair["web-b"][version]) == pair["a"][version]


def test_out_of_the_cluster_a_pod_is_hidden_behind_its_node(cluster: Cluster, pair: dict[str, dict[str, str]]) -> None:
    """For an address that is not a pod's, the node's own address is the source."""
    cluster.apply(pod("outside", node="n2", image="nginx", hostNetwork=True))
    cluster.ready("outside")
    for address, hidden in (("192.168.60.12", "192.168.60.11"), ("[fd00:60::12]", "fd00:60::11")):
        cluster.exec("a", "wget", "-q", "-O", "/dev/null", f"http://{address}/")
        source = cluster.kubectl("logs", "outside", "--tail=1").stdout.split()[0]
        assert source == hidden != pair["a"]["4"]
    cluster.delete("outside")


def test_neighbours_are_fixed_and_links_leave_room_for_a_tunnel(
    cluster: Cluster, pair: dict[str, dict[str, str]]
) -> None:
    """Nothing is learnt by ARP or neighbour discovery, and no address waits for duplicate detection."""
    assert "1450" in cluster.exec("a", "cat", "/sys/class/net/eth0/mtu")
    listing = cluster.exec("a", "ip", "address", "show", "eth0")
    assert f"{pair['a']['4']}/32" in listing and f"{pair['a']['6']}/128" in listing and "tentative" not in listing
    neighbours = json.loads(cluster.nodes["n1"].run("ip", "-j", "neighbour", "show"))
    states = {item["dst"]: item["state"] for item in neighbours}
    assert all(states[address] == ["PERMANENT"] for address in pair["a"].values())


def test_names(cluster: Cluster, pair: dict[str, dict[str, str]]) -> None:
    """Services, headless services, pods and the world outside, through the search path; and what does not exist."""
    address = pair["web-b"]["4"]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}}
    headless = {**service, "metadata": {"name": "bare", "namespace": "default"}}
    ports = [{"port": 80}]
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "bare-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "bare"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }
    cluster.apply({**service, "spec": {"ports": ports}}, {**headless, "spec": {"clusterIP": "None", "ports": ports}})
    cluster.apply(slice_)
    cluster_ip = cluster.request("GET", "/api/v1/namespaces/default/services/web")["spec"]["clusterIP"]

    def look_up(name: str) -> str:
        return cluster.kubectl("exec", "a", "--", "nslookup", name, check=False).stdout

    until(lambda: cluster_ip in look_up("web.default.svc.cluster.local"), "the service has a name")
    until(lambda: address in look_up("bare.default.svc.cluster.local"), "the headless service names its endpoint")
    outside = look_up("ifconfig.me")
    assert "203.0.113.10" in outside and "2001:db8:113::10" in outside
    assert "10.244.9.7" in look_up("10-244-9-7.default.pod.cluster.local")
    assert "NXDOMAIN" in look_up("nowhere.example.")
    assert cluster.exec("b", "sh", "-c", "curl -s -o /dev/null -w '%{remote_ip}' http://bare/") == address
    for path in ("/api/v1/namespaces/default/services/web", "/api/v1/namespaces/default/services/bare"):
        cluster.request("DELETE", path)


def test_an_address_is_not_given_again_at_once(cluster: Cluster) -> None:
    """Round robin: the next pod gets another address although this one is free again."""
    seen = []
    for _ in range(2):
        cluster.apply(pod("brief", "sleep", "1000"))
        seen.append(cluster.ready("brief")["status"]["podIP"])
        cluster.delete("brief")
    assert seen[0] != seen[1]


class Gate(UnixStreamServer):
    """A network plug-in: remembers what it was asked, and answers with `status`."""

    status = 503

    def __init__(self, path: Path) -> None:
        self.asked: list[tuple[str, dict[str, object]]] = []
        super().__init__(str(path), GateHandler)


class GateHandler(BaseHTTPRequestHandler):
    """Its HTTP side."""

    def do_POST(self) -> None:
        """Note the question, answer with the gate's status."""
        assert isinstance(self.server, Gate)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def address_string(self) -> str:
        """A unix socket's client has no address."""
        return "kubelet"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _gate(root: Path) -> Iterator[Gate]:
    folder = root / "etc/cni/net.d"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "run").mkdir(exist_ok=True)
    configuration = folder / "10-gate.json"
    gate = Gate(root / "run/gate.sock")
    thread = threading.Thread(target=gate.serve_forever, daemon=True)
    thread.start()
    configuration.write_text(json.dumps({"name": "gate", "type": "socket", "path": "/run/gate.sock"}))
    try:
        yield gate
    finally:
        configuration.unlink()
        gate.shutdown()
        gate.server_close()
        thread.join()


def test_no_container_runs_before_the_plugins_consent(cluster: Cluster) -> None:
    """A plug-in is asked when the address is published, holds the containers back, and hears of the end."""
    with _gate(cluster.nodes["n1"].config.root) as gate:
        cluster.apply(pod("held", "sleep", "1000"))
        until(lambda: len(gate.asked) > 1, "the plug-in is asked again")
        status = cluster.pod("held")["status"]
        assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
        path, body = gate.asked[0]
        assert path == "/cni/add" and body["ips"] == [item["ip"] for item in status["podIPs"]]
        assert body["labels"] == {"app": "held"} and Path(str(body["netns"])).exists()
        assert "FailedCreatePodSandBox" in [reason for reason, _ in cluster.events("held")]
        gate.status = 200
        cluster.ready("held")
        cluster.delete("held")
        assert gate.asked[-1][0] == "/cni/del"
