"""The official client's own machinery against our server: informers, leader election, webhooks as it declares them."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import kubernetes
import pytest
from kubernetes.client import ApiException
from kubernetes.informer import SharedInformer
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from egresslab.cluster.testing import RunningServer
from tests.cluster.apiserver.conftest import connect, pod


def test_an_informer_keeps_a_copy(core: Any, namespace: str) -> None:
    core.create_namespaced_pod(namespace, pod("a"))
    added, deleted = threading.Semaphore(0), threading.Event()
    informer = SharedInformer(core.list_namespaced_pod, namespace=namespace)
    informer.add_event_handler("ADDED", lambda obj: added.release())
    informer.add_event_handler("DELETED", lambda obj: deleted.set())
    informer.start()
    try:
        assert added.acquire(timeout=10)
        core.create_namespaced_pod(namespace, pod("b"))
        assert added.acquire(timeout=10)
        core.delete_namespaced_pod("a", namespace)
        assert deleted.wait(10)
    finally:
        informer.stop()


def test_one_of_two_candidates_leads(server: RunningServer, namespace: str) -> None:
    leading: list[str] = []
    led, over = threading.Event(), threading.Event()

    class Lock(LeaseLock):  # type: ignore[misc]
        def get(self, name: str, namespace: str) -> Any:
            if over.is_set():
                raise SystemExit  # ends the candidate's thread; it has no other way out
            return super().get(name, namespace)

    def candidate(name: str) -> threading.Thread:
        def on_start() -> None:
            leading.append(name)
            led.set()

        lock = Lock("lock", namespace, name)
        config = electionconfig.Config(lock, 4, 3, 1, on_start, lambda: None)

        def run() -> None:
            with contextlib.suppress(SystemExit):
                leaderelection.LeaderElection(config).run()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    kubernetes.config.load_kube_config(str(server.kubeconfig))
    threads = [candidate("one")]
    assert led.wait(10)
    threads.append(candidate("two"))
    leases = kubernetes.client.CoordinationV1Api(connect(server.kubeconfig))
    assert leases.read_namespaced_lease("lock", namespace).spec.holder_identity == "one"
    assert leading == ["one"]
    over.set()
    for thread in threads:
        thread.join(10)


class _Hook(BaseHTTPRequestHandler):
    """Labels what it is shown; refuses what asks for it."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = review["request"]
        answer: dict[str, Any] = {"uid": request["uid"], "allowed": True}
        if "forbidden" in request["object"]["metadata"].get("labels", {}):
            answer |= {"allowed": False, "status": {"message": "not today"}}
        else:
            patch = [{"op": "add", "path": "/metadata/labels/node", "value": "lab-worker"}]
            answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        body = json.dumps({**review, "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hook(server: RunningServer, client: Any, namespace: str) -> Iterator[Any]:
    """A mutating webhook for pods of the test's namespace."""
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(server.directory / "apiserver.crt", server.directory / "apiserver.key")
    listener = HTTPServer(("127.0.0.1", 0), _Hook)
    listener.socket = trust.wrap_socket(listener.socket, server_side=True)
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    admission = kubernetes.client.AdmissionregistrationV1Api(client)
    webhook = {
        "name": "label.example.com",
        "clientConfig": {
            "url": f"https://127.0.0.1:{listener.server_port}/",
            "caBundle": base64.b64encode(server.ca.read_bytes()).decode(),
        },
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
    }
    admission.create_mutating_webhook_configuration({"metadata": {"name": "label"}, "webhooks": [webhook]})
    yield listener
    admission.delete_mutating_webhook_configuration("label")
    listener.shutdown()
    listener.server_close()
    thread.join(5)


def test_a_webhook_changes_and_refuses(hook: Any, core: Any, namespace: str) -> None:
    made = core.create_namespaced_pod(namespace, pod("a", app="x"))
    assert made.metadata.labels == {"app": "x", "node": "lab-worker"}
    with pytest.raises(ApiException) as refused:
        core.create_namespaced_pod(namespace, pod("b", forbidden="yes"))
    assert (
        'admission webhook "label.example.com" denied the request: not today'
        in json.loads(refused.value.body)["message"]
    )
    assert "node" not in (core.create_namespaced_pod("default", pod("elsewhere", app="x")).metadata.labels)
    core.delete_namespaced_pod("elsewhere", "default")
