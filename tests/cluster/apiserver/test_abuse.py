"""Clients and webhooks that do not behave: each is refused or given up on, and everyone else is served meanwhile."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from egresslab.cluster.testing import RunningServer
from tests.cluster.apiserver.conftest import Kubectl
from tests.cluster.apiserver.test_access import status_of

CLIENTS = 100


def connected(server: RunningServer, *, tls: bool = True) -> socket.socket:
    """A connection to the server."""
    plain = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20)
    if not tls:
        return plain
    return ssl.create_default_context(cafile=str(server.ca)).wrap_socket(plain, server_hostname="127.0.0.1")


def said(server: RunningServer, path: str, user: str) -> int:
    """The status code for a GET whose path is sent as it stands: clients would tidy it."""
    with connected(server) as line:
        token = server.tokens[user]
        line.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = line.recv(64)
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/default/../kube-system/secrets",
        "/api/v1/namespaces/default/configmaps/../../kube-system/secrets",
        "/api/v1/namespaces/..%2fkube-system/secrets",
        "/api/v1/namespaces/default%2f..%2fkube-system/secrets",
        "//api/v1/secrets",
        "/healthz/../api/v1/secrets",
        "/version/../api/v1/secrets",
        "/openapi/v3/../../api/v1/secrets",
        "/openapi/v3/../../../../etc/passwd",
        "/api/v1/../v1/secrets",
        "/api/v1/namespaces/default/pods/../../../secrets",
        "/./api/v1/secrets",
    ],
)
def test_no_path_leads_around_what_a_user_may(server: RunningServer, path: str) -> None:
    assert said(server, path, "nobody") in (400, 403, 404, 405)


def test_clients_that_never_finish_keep_nobody_waiting(server: RunningServer, kubectl: Kubectl) -> None:
    token = server.tokens["kubernetes-admin"]
    head = f"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 99\r\n"
    with ExitStack() as stack:
        for number in range(CLIENTS):
            line = stack.enter_context(connected(server, tls=bool(number % 4)))
            if number % 4:
                begun = [head[:40], head + "\r\n{", f"{head}\r\n", ""][number % 4]
                line.sendall(begun.encode())
        assert status_of(server, "/api/v1/namespaces/default", token)[0] == 200
        assert kubectl("get", "namespaces", "-o", "name").returncode == 0


def test_a_body_without_an_end_is_refused(server: RunningServer) -> None:
    token = server.tokens["kubernetes-admin"]
    head = f"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    with connected(server) as line:
        line.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        answer = b""
        try:
            for _ in range(16):
                line.sendall(piece)
            answer = line.recv(64)
        except (ConnectionError, ssl.SSLError):
            answer = answer or b"HTTP/1.1 413 "
    assert b" 413 " in answer
    assert status_of(server, "/api/v1/namespaces/default", token)[0] == 200


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in held:
                connection.close()


@pytest.mark.parametrize(("policy", "made"), [("Fail", False), ("Ignore", True)])
def test_a_webhook_that_hangs_is_given_up_on(
    server: RunningServer, kubectl: Kubectl, namespace: str, policy: str, made: bool
) -> None:
    with silent_server() as port:
        hook = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": f"hangs-{policy.lower()}"},
            "webhooks": [
                {
                    "name": "hangs.example.com",
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "failurePolicy": policy,
                    "timeoutSeconds": 1,
                    "clientConfig": {
                        "url": f"https://127.0.0.1:{port}/",
                        "caBundle": base64.b64encode(server.ca.read_bytes()).decode(),
                    },
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "rules": [
                        {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
                    ],
                }
            ],
        }
        assert kubectl("create", "-f", "-", stdin=json.dumps(hook)).returncode == 0
        try:
            asked = threading.Thread(target=kubectl, args=("create", "configmap", "waits"))
            begun = time.monotonic()
            asked.start()
            assert kubectl("get", "configmaps").returncode == 0, "others are served meanwhile"
            asked.join(20)
            assert time.monotonic() - begun >= 1.0
            assert (kubectl("get", "configmap", "waits").returncode == 0) is made
            if not made:
                refused = kubectl("create", "configmap", "waits")
                assert 'failed calling webhook "hangs.example.com"' in refused.stderr
        finally:
            kubectl("delete", "mutatingwebhookconfiguration", f"hangs-{policy.lower()}")
