"""Who may do what: tokens, roles, and the words of a refusal."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import kubernetes
import pytest

from egresslab.cluster.testing import RunningServer
from tests.cluster.apiserver.conftest import connect, pod, run_kubectl


def status_of(server: RunningServer, path: str, token: str | None, body: bytes | None = None) -> tuple[int, Any]:
    """HTTP status and decoded body."""
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(server.url + path, body, headers)
    trust = ssl.create_default_context(cafile=str(server.ca))
    try:
        with urllib.request.urlopen(request, context=trust, timeout=10) as answer:
            content = answer.read()
            return answer.status, content.decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize("token", [None, "", "wrong", "a.b.c"])
def test_without_a_known_token_nothing_is_told(server: RunningServer, token: str | None) -> None:
    code, body = status_of(server, "/api/v1/namespaces", token)
    assert (code, body["reason"], body["message"]) == (401, "Unauthorized", "Unauthorized")


def test_health_and_version_are_for_everyone(server: RunningServer) -> None:
    assert status_of(server, "/readyz", None) == (200, "ok")
    assert status_of(server, "/version", None)[0] == 200


def test_a_user_without_roles_is_told_what_is_missing(server: RunningServer, namespace: str) -> None:
    nobody = server.kubeconfig_for("nobody")
    refused = run_kubectl(nobody, "-n", namespace, "get", "pods")
    assert refused.returncode == 1
    assert refused.stderr.strip() == (
        f'Error from server (Forbidden): pods is forbidden: User "nobody" cannot list resource "pods" in API group "" '
        f'in the namespace "{namespace}"'
    )
    refused = run_kubectl(nobody, "delete", "node", "n1")
    assert 'User "nobody" cannot delete resource "nodes" in API group "" at the cluster scope' in refused.stderr


def test_a_role_gives_exactly_what_it_says(server: RunningServer, core: Any, client: Any, namespace: str) -> None:
    rbac = kubernetes.client.RbacAuthorizationV1Api(client)
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "open"}})
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "closed"}})
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["open"]},
    ]
    rbac.create_namespaced_role(namespace, {"metadata": {"name": "reader"}, "rules": rules})
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody"}],
    }
    rbac.create_namespaced_role_binding(namespace, binding)
    nobody = kubernetes.client.CoreV1Api(connect(server.kubeconfig_for("nobody")))
    assert nobody.list_namespaced_pod(namespace).items == []
    assert nobody.read_namespaced_config_map("open", namespace).metadata.name == "open"
    for attempt in (
        lambda: nobody.create_namespaced_pod(namespace, pod("a")),
        lambda: nobody.read_namespaced_config_map("closed", namespace),
        lambda: nobody.list_namespaced_pod("default"),
        lambda: nobody.list_namespaced_secret(namespace),
        lambda: nobody.list_pod_for_all_namespaces(),
    ):
        with pytest.raises(kubernetes.client.ApiException) as refused:
            attempt()
        assert refused.value.status == 403
    rbac.delete_namespaced_role_binding("reader", namespace)
    with pytest.raises(kubernetes.client.ApiException):
        nobody.list_namespaced_pod(namespace)


def test_a_kubelet_may_do_its_work_and_no_more(server: RunningServer, core: Any, namespace: str) -> None:
    node = kubernetes.client.CoreV1Api(connect(server.kubeconfig_for("system:node:n1")))
    core.create_namespaced_pod(namespace, pod("a"))
    node.patch_namespaced_pod_status("a", namespace, {"status": {"phase": "Running"}})
    node.list_pod_for_all_namespaces(field_selector="spec.nodeName=n1")
    with pytest.raises(kubernetes.client.ApiException) as refused:
        node.delete_namespace(namespace)
    assert refused.value.status == 403


def test_can_i_answers_for_oneself_and_for_others(server: RunningServer, kubectl: Any) -> None:
    assert kubectl("auth", "can-i", "delete", "nodes").stdout.strip() == "yes"
    nobody = server.kubeconfig_for("nobody")
    assert run_kubectl(nobody, "auth", "can-i", "delete", "nodes").stdout.strip() == "no"
    listed = run_kubectl(nobody, "auth", "can-i", "--list")
    assert "selfsubjectreviews.authentication.k8s.io" in listed.stdout


def test_a_body_that_is_too_large_is_refused(server: RunningServer) -> None:
    body = b'{"data":{"a":"' + b"x" * (3 * 1024 * 1024) + b'"}}'
    token = server.tokens["kubernetes-admin"]
    code, answer = status_of(server, "/api/v1/namespaces/default/configmaps", token, body)
    assert (code, answer["reason"]) == (413, "RequestEntityTooLarge")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"metadata": 3}', b'{"kind": "Pod"}', b"\xff\xfe"])
def test_a_body_that_is_no_object_is_refused(server: RunningServer, body: bytes) -> None:
    token = server.tokens["kubernetes-admin"]
    code, answer = status_of(server, "/api/v1/namespaces/default/configmaps", token, body)
    assert (code, answer["kind"], answer["reason"]) == (400, "Status", "BadRequest")


@pytest.mark.parametrize(
    "path", ["/api/v1/widgets", "/apis/batch/v1/jobs", "/apis/nowhere", "/openapi/v1", "/x", "/api/v2", "/metrics"]
)
def test_what_is_not_served_says_where_to_find_it(server: RunningServer, path: str) -> None:
    code, answer = status_of(server, path, server.tokens["kubernetes-admin"])
    assert (code, answer["reason"]) == (404, "NotFound")
    assert "not part of the embedded cluster; use --environment kind" in answer["message"]
