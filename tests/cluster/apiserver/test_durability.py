"""What was answered is there after a crash: objects with their versions, definitions, tokens."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import Any

import kubernetes
import pytest
import urllib3

from egresslab.api.crds import definitions
from egresslab.cluster.testing import RunningServer
from tests.cluster.apiserver.conftest import connect, pod, policy, run_kubectl

NAME = "ciliumegressgatewaypolicies"
WATCH_S = 60


def snapshot(core: Any) -> dict[str, tuple[str, str]]:
    """Name -> (uid, resourceVersion) of all pods."""
    return {
        item.metadata.name: (item.metadata.uid, item.metadata.resource_version)
        for item in core.list_namespaced_pod("default").items
    }


def test_everything_that_was_answered_survives_kill_9(api_server: RunningServer) -> None:
    core = kubernetes.client.CoreV1Api(connect(api_server.kubeconfig))
    for number in range(20):
        core.create_namespaced_pod("default", pod(f"p{number}"))
    core.patch_namespaced_pod("p3", "default", {"metadata": {"labels": {"a": "b"}}})
    core.delete_namespaced_pod("p4", "default")
    before = snapshot(core)
    version = core.list_namespaced_pod("default").metadata.resource_version
    api_server.kill()
    api_server.start()
    core = kubernetes.client.CoreV1Api(connect(api_server.kubeconfig))
    assert snapshot(core) == before
    assert "p4" not in before
    assert core.read_namespaced_pod("p3", "default").metadata.labels == {"a": "b"}
    made = core.create_namespaced_pod("default", pod("new"))
    assert int(made.metadata.resource_version) > int(version)


def test_a_watch_from_before_a_restart_is_told_to_list_again(api_server: RunningServer) -> None:
    core = kubernetes.client.CoreV1Api(connect(api_server.kubeconfig))
    old = core.list_namespaced_pod("default").metadata.resource_version
    core.create_namespaced_pod("default", pod("a"))
    api_server.kill()
    api_server.start()
    core = kubernetes.client.CoreV1Api(connect(api_server.kubeconfig))
    with pytest.raises(kubernetes.client.ApiException) as refused:
        for _ in kubernetes.watch.Watch().stream(core.list_namespaced_pod, "default", resource_version=old):
            pass
    assert refused.value.status == 410


def test_definitions_and_their_objects_are_served_after_a_restart(api_server: RunningServer) -> None:
    client = connect(api_server.kubeconfig)
    extensions = kubernetes.client.ApiextensionsV1Api(client)
    for definition in definitions():
        extensions.create_custom_resource_definition(definition)
    custom = kubernetes.client.CustomObjectsApi(client)
    made = custom.create_cluster_custom_object("cilium.io", "v2", NAME, policy("a"))
    api_server.kill()
    api_server.start()
    custom = kubernetes.client.CustomObjectsApi(connect(api_server.kubeconfig))
    assert custom.get_cluster_custom_object("cilium.io", "v2", NAME, "a") == made


def test_a_service_account_token_outlives_the_server_but_not_its_pod(api_server: RunningServer) -> None:
    core = kubernetes.client.CoreV1Api(connect(api_server.kubeconfig))
    core.create_namespaced_service_account("default", {"metadata": {"name": "robot"}})
    made = core.create_namespaced_pod("default", pod("a"))
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": made.metadata.uid}
    request = {"spec": {"audiences": [], "expirationSeconds": 3600, "boundObjectRef": bound}}
    token = core.create_namespaced_service_account_token("robot", "default", request).status.token
    api_server.tokens["robot"] = token
    robot = api_server.kubeconfig_for("robot")
    api_server.kill()
    api_server.start()
    who = run_kubectl(robot, "auth", "whoami")
    assert "system:serviceaccount:default:robot" in who.stdout, who.stderr
    assert "authentication.kubernetes.io/pod-name" in who.stdout
    kubernetes.client.CoreV1Api(connect(api_server.kubeconfig)).delete_namespaced_pod("a", "default")
    assert run_kubectl(robot, "auth", "whoami").returncode == 1


def test_a_service_keeps_its_address(api_server: RunningServer) -> None:
    core = kubernetes.client.CoreV1Api(connect(api_server.kubeconfig))
    spec = {"selector": {"a": "b"}, "ports": [{"port": 80}]}
    first = core.create_namespaced_service("default", {"metadata": {"name": "one"}, "spec": spec})
    api_server.kill()
    api_server.start()
    core = kubernetes.client.CoreV1Api(connect(api_server.kubeconfig))
    second = core.create_namespaced_service("default", {"metadata": {"name": "two"}, "spec": spec})
    assert core.read_namespaced_service("one", "default").spec.cluster_ip == first.spec.cluster_ip
    assert second.spec.cluster_ip != first.spec.cluster_ip
    assert core.read_namespaced_service("kubernetes", "default").spec.cluster_ip == "10.96.0.1"


def test_a_clean_stop_does_not_wait_for_watchers(api_server: RunningServer) -> None:
    core = kubernetes.client.CoreV1Api(connect(api_server.kubeconfig))
    core.create_namespaced_pod("default", pod("a"))
    started, ended = threading.Event(), threading.Event()

    def follow() -> None:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            for _ in kubernetes.watch.Watch().stream(core.list_namespaced_pod, "default", timeout_seconds=WATCH_S):
                started.set()
        ended.set()

    watcher = threading.Thread(target=follow, daemon=True)
    watcher.start()
    assert started.wait(10)
    begin = time.monotonic()
    api_server.kill(signal.SIGTERM)
    assert time.monotonic() - begin < WATCH_S / 2, "it waited for the watch to end"
    assert ended.wait(5)
    api_server.start()
