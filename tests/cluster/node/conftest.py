"""A small real cluster for the node's tests: an API server and two nodes in network namespaces joined by one cable.

kubectl talks to the API server on the host's loopback, as in a lab. All names carry a random lab name, and everything
is removed at the end, whatever the tests have done to it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pyroute2 import IPRoute, NetNS, netns

from egresslab.cluster.node.config import NodeConfig, load_config
from egresslab.cluster.node.leftovers import remove_node_leftovers
from egresslab.cluster.testing import RunningServer, running_server

IMAGES = Path(__file__).parents[3] / "environments" / "netns" / "images.yaml"
KUBECTL = Path(sys.executable).with_name("kubectl")
ADDRESSES = {"n1": ("192.168.60.11", "fd00:60::11"), "n2": ("192.168.60.12", "fd00:60::12")}
NUMBERS = {"n1": 1, "n2": 2}
DEADLINE_S = 20.0

requires_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def until(check: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `check`, asked again and again; fails the test with `what` after the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if value := check():
            return value
        time.sleep(0.05)
    pytest.fail(f"not within {deadline_s:g} s: {what}")


@dataclass(slots=True)
class NodeProcess:
    """One node: its namespace, its configuration, and its process while that runs."""

    name: str
    namespace: str
    config_path: Path
    config: NodeConfig
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(default=Path("/dev/null"))

    def start(self) -> None:
        """Start the process."""
        argv = [sys.executable, "-m", "egresslab.cluster.node", "--config", str(self.config_path)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the process, by default as a crash does."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(DEADLINE_S)
            self.process = None

    def run(self, *command: str) -> str:
        """Output of a command in the node's network namespace."""
        argv = ["nsenter", f"--net=/run/netns/{self.namespace}", *command]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=DEADLINE_S).stdout


@dataclass(slots=True)
class Cluster:
    """The server and its nodes."""

    server: RunningServer
    nodes: dict[str, NodeProcess]

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator."""
        argv = [str(KUBECTL), "--kubeconfig", str(self.server.kubeconfig), *arguments]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            pytest.fail(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done

    def request(self, method: str, path: str, body: object = None) -> Any:
        """A request as the administrator, without kubectl's start-up; None for what is not there."""
        try:
            return json.loads(self._open(method, path, body))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise AssertionError(f"{method} {path}: {error.read().decode()}") from error

    def _open(self, method: str, path: str, body: object = None) -> bytes:
        headers = {
            "Authorization": f"Bearer {self.server.tokens['kubernetes-admin']}",
            "Content-Type": "application/json",
        }
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.server.url}{path}", data, headers, method=method)
        trust = ssl.create_default_context(cafile=str(self.server.ca))
        with urllib.request.urlopen(request, context=trust, timeout=DEADLINE_S) as answer:
            return bytes(answer.read())

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create objects."""
        for obj in objects:
            group = f"/apis/{obj['apiVersion']}" if "/" in obj["apiVersion"] else f"/api/{obj['apiVersion']}"
            path = f"{group}/namespaces/default/{obj['kind'].lower()}s"
            assert self.request("POST", path, obj) is not None, f"{path} is not served"

    def pods(self, path: str = "") -> Any:
        """The answer for a path below the pods of the namespace `default`."""
        return self.request("GET", f"/api/v1/namespaces/default/pods{path}")

    def pod(self, name: str) -> dict[str, Any]:
        """A pod that is there."""
        pod = self.pods(f"/{name}")
        assert pod is not None, f"pod {name} is not there"
        return dict(pod)

    def history(self, name: str, since: dict[str, Any]) -> list[dict[str, Any]]:
        """Every version of a pod after the one given, as a watch tells them."""
        query = f"watch=true&timeoutSeconds=1&resourceVersion={since['metadata']['resourceVersion']}"
        lines = self._open("GET", f"/api/v1/namespaces/default/pods?{query}").splitlines()
        objects = (json.loads(line)["object"] for line in lines)
        return [obj for obj in objects if obj["metadata"]["name"] == name]

    def container(self, name: str) -> dict[str, Any]:
        """The status of a pod's first container, once it has one."""
        statuses = until(lambda: self.pod(name)["status"].get("containerStatuses"), f"{name} has container statuses")
        return dict(statuses[0])

    def ready(self, name: str) -> dict[str, Any]:
        """A pod once it is ready."""

        def is_ready() -> dict[str, Any] | None:
            pod = self.pod(name)
            conditions = pod.get("status", {}).get("conditions", [])
            return pod if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) else None

        return until(is_ready, f"pod {name} is ready")

    def exec(self, pod: str, *command: str) -> str:
        """Output of a command in a pod."""
        return self.kubectl("exec", pod, "--", *command).stdout

    def events(self, pod: str) -> list[tuple[str, str]]:
        """(reason, message) of what happened to a pod."""
        items = self.request("GET", "/api/v1/namespaces/default/events")["items"]
        return [(item["reason"], item["message"]) for item in items if item["involvedObject"]["name"] == pod]

    def delete(self, name: str) -> None:
        """Delete a pod and wait until it is gone."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 1}
        self.request("DELETE", f"/api/v1/namespaces/default/pods/{name}", options)
        until(lambda: self.pods(f"/{name}") is None, f"pod {name} is gone")


def pod(name: str, *command: str, node: str = "n1", image: str = "busybox", **spec: Any) -> dict[str, Any]:
    """A pod with one container `main`; `container` in `spec` adds to that container, the rest to the pod."""
    container = {"name": "main", "image": image, **spec.pop("container", {})}
    if command:
        container["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 5, "containers": [container], **spec},
    }


def _certificates(directory: Path) -> None:
    """An authority, and one certificate for the API server and all kubelets."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
    addresses = ["127.0.0.1", *(address for pair in ADDRESSES.values() for address in pair)]
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address)) for address in addresses])
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    for index, file in enumerate(("ca", "apiserver")):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name if index == 0 else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")]))
            .issuer_name(name)
            .public_key(keys[index].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=index == 0, path_length=None), critical=True)
        )
        if index:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
            builder = builder.add_extension(alternatives, critical=False).add_extension(issuer, critical=False)
        else:
            subject = x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key())
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(subject, critical=False).add_extension(usage, critical=True)
        certificate = builder.sign(keys[0], hashes.SHA256())
        (directory / f"{file}.crt").write_bytes(certificate.public_bytes(pem))
        key = keys[index].private_bytes(pem, private, serialization.NoEncryption())
        (directory / f"{file}.key").write_bytes(key)


@contextmanager
def _namespaces(lab: str) -> Iterator[dict[str, str]]:
    """Two namespaces with a cable between their eth0."""
    names = {node: f"egresslab-{lab}-{node}" for node in ADDRESSES}
    with ExitStack() as stack:
        for name in names.values():
            netns.create(name)
            stack.callback(netns.remove, name)
        with IPRoute() as host:
            ends = {node: f"t{lab[-5:]}{node}" for node in names}
            host.link("add", ifname=ends["n1"], kind="veth", peer=ends["n2"])
            for node, name in names.items():
                (index,) = host.link_lookup(ifname=ends[node])
                with (Path("/run/netns") / name).open() as file:
                    host.link("set", index=index, ifname="eth0", net_ns_fd=file.fileno())
        for node, name in names.items():
            with NetNS(name) as inside:
                inside.link("set", index=1, state="up")
                (index,) = inside.link_lookup(ifname="eth0")
                for address, length in zip(ADDRESSES[node], (24, 64), strict=True):
                    inside.addr("add", index=index, address=address, prefixlen=length, flags=2)
                inside.link("set", index=index, state="up")
        yield names


def _node(directory: Path, lab: str, node: str, namespace: str, server: RunningServer) -> NodeProcess:
    number = NUMBERS[node]
    state = directory / node
    (state / "root").mkdir(parents=True)
    config = {
        "lab": lab,
        "name": node,
        "network_namespace": f"/run/netns/{namespace}",
        "root": str(state / "root"),
        "state": str(state),
        "internal_addresses": ADDRESSES[node],
        "pod_cidrs": [f"10.244.{number}.0/24", f"fd00:10:244:{number}::/64"],
        "cluster_cidrs": ["10.244.0.0/16", "fd00:10:244::/48", "10.96.0.0/16"],
        "dns": {"records": {"ifconfig.me": ["203.0.113.10", "2001:db8:113::10"]}},
        "api": {
            "url": "https://192.168.60.11:6443",
            "token": server.tokens[f"system:node:{node}"],
            "ca": str(server.ca),
        },
        "kubelet": {
            "certificate": str(directory / "apiserver.crt"),
            "key": str(directory / "apiserver.key"),
            "token": server.tokens["system:apiserver"],
        },
        "images": str(IMAGES),
        "ca_bundle": str(server.ca),
        "environment": {"KUBERNETES_SERVICE_HOST": "192.168.60.11", "KUBERNETES_SERVICE_PORT": "6443"},
        "labels": {"zone": f"zone-{number}"},
        "heartbeat_s": 2.0,
    }
    path = state / "config.json"
    path.write_text(json.dumps(config))
    return NodeProcess(node, namespace, path, load_config(path), log=directory / f"{node}.log")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server and two registered nodes."""
    directory = tmp_path_factory.mktemp("node-cluster")
    lab = f"nt{secrets.token_hex(3)}"
    _certificates(directory)
    with ExitStack() as stack:
        names = stack.enter_context(_namespaces(lab))
        users = {f"system:node:{node}": "system:nodes" for node in names}
        server = stack.enter_context(
            running_server(directory, users, netns=names["n1"], node_bind="192.168.60.11:6443")
        )
        nodes = {node: _node(directory, lab, node, name, server) for node, name in names.items()}
        cluster = Cluster(server, nodes)
        try:
            for node in nodes.values():
                node.start()
            for node in nodes:
                cluster.kubectl("wait", "--for=create", f"node/{node}", "--timeout=20s")
                cluster.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=20s")
            cluster.kubectl("create", "serviceaccount", "default")
            yield cluster
        finally:
            for node in nodes.values():
                node.kill()
                remove_node_leftovers(node.config)
                shutil.rmtree(node.config.state, ignore_errors=True)
