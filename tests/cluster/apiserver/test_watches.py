"""Watches: what follows what, in which order, from which version, and what is said when a version is too old."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from egresslab.api.connection import connect as connect_api
from egresslab.api.reflector import ObjectChange, Reflector
from egresslab.api.resources import CONFIGMAPS
from egresslab.cluster.testing import RunningServer, running_server
from tests.cluster.apiserver.conftest import KUBECTL, connect, pod


def raw(server: RunningServer, path: str, accept: str = "application/json") -> Iterator[dict[str, Any]]:
    """Lines of a watch by plain HTTP."""
    headers = {"Authorization": f"Bearer {server.tokens['kubernetes-admin']}", "Accept": accept}
    trust = ssl.create_default_context(cafile=str(server.ca))
    request = urllib.request.Request(server.url + path, headers=headers)
    with urllib.request.urlopen(request, context=trust, timeout=10) as answer:
        for line in answer:
            yield json.loads(line)


def events(core: Any, namespace: str, version: str, count: int, **query: Any) -> list[tuple[str, str]]:
    """(type, name) of the next events."""
    watch, found = kubernetes.watch.Watch(), []
    for event in watch.stream(
        core.list_namespaced_pod, namespace, resource_version=version, timeout_seconds=5, **query
    ):
        found.append((event["type"], event["object"].metadata.name))
        if len(found) == count:
            watch.stop()
    return found


def test_replays_everything_since_a_version_in_order(core: Any, namespace: str) -> None:
    version = core.list_namespaced_pod(namespace).metadata.resource_version
    for name in ("a", "b"):
        core.create_namespaced_pod(namespace, pod(name))
    core.patch_namespaced_pod("a", namespace, {"metadata": {"labels": {"x": "y"}}})
    core.delete_namespaced_pod("b", namespace)
    assert events(core, namespace, version, 4) == [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]


def test_a_label_that_comes_and_goes_is_an_object_that_comes_and_goes(core: Any, namespace: str) -> None:
    version = core.list_namespaced_pod(namespace).metadata.resource_version
    core.create_namespaced_pod(namespace, pod("a"))
    core.patch_namespaced_pod("a", namespace, {"metadata": {"labels": {"team": "x"}}})
    core.patch_namespaced_pod("a", namespace, {"metadata": {"labels": {"team": "x", "more": "y"}}})
    core.patch_namespaced_pod("a", namespace, {"metadata": {"labels": {"team": None}}})
    found = events(core, namespace, version, 3, label_selector="team=x")
    assert found == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


def test_a_pod_bound_to_a_node_appears_to_the_watch_of_that_node(core: Any, namespace: str) -> None:
    version = core.list_namespaced_pod(namespace).metadata.resource_version
    core.create_namespaced_pod(namespace, pod("a"))
    binding = {"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}}
    core.create_namespaced_pod_binding("a", namespace, binding, _preload_content=False)
    assert events(core, namespace, version, 1, field_selector="spec.nodeName=n1") == [("ADDED", "a")]


def test_initial_events_end_with_a_bookmark_that_says_so(server: RunningServer, core: Any, namespace: str) -> None:
    core.create_namespaced_pod(namespace, pod("a"))
    query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    lines = raw(server, f"/api/v1/namespaces/{namespace}/pods?{query}")
    first, second = next(lines), next(lines)
    assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "a")
    assert second["type"] == "BOOKMARK"
    assert second["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(second["object"]["metadata"]["resourceVersion"]) >= int(first["object"]["metadata"]["resourceVersion"])


def test_a_watch_of_a_table_gives_rows_and_its_columns_once(server: RunningServer, core: Any, namespace: str) -> None:
    core.create_namespaced_pod(namespace, pod("a"))
    core.create_namespaced_pod(namespace, pod("b"))
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    lines = raw(server, f"/api/v1/namespaces/{namespace}/pods?watch=true", accept)
    first, second = next(lines)["object"], next(lines)["object"]
    assert first["kind"] == "Table"
    assert [column["name"] for column in first["columnDefinitions"]][:3] == ["Name", "Ready", "Status"]
    assert first["rows"][0]["cells"][:3] == ["a", "0/1", "Pending"]
    assert second["columnDefinitions"] is None


def test_a_watch_ends_when_its_time_is_up(server: RunningServer, namespace: str) -> None:
    assert list(raw(server, f"/api/v1/namespaces/{namespace}/pods?watch=true&timeoutSeconds=1")) == []


def test_a_version_from_the_future_is_refused(server: RunningServer, namespace: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        next(raw(server, f"/api/v1/namespaces/{namespace}/pods?watch=true&resourceVersion=99999999"))
    assert refused.value.code == 504


def test_a_version_that_is_compacted_is_gone(tmp_path: Path) -> None:
    with running_server(tmp_path, history=4) as server:
        core = kubernetes.client.CoreV1Api(connect(server.kubeconfig))
        version = core.list_namespaced_config_map("default").metadata.resource_version
        core.create_namespaced_config_map("default", {"metadata": {"name": "c"}})
        path = f"/api/v1/namespaces/default/configmaps?watch=true&timeoutSeconds=1&resourceVersion={version}"
        for number in range(3):
            core.patch_namespaced_config_map("c", "default", {"data": {"n": str(number)}})
        assert [event["type"] for event in raw(server, path)] == ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED"]
        core.patch_namespaced_config_map("c", "default", {"data": {"n": "last"}})
        with pytest.raises(urllib.error.HTTPError) as refused:
            next(raw(server, path))
    assert refused.value.code == 410
    assert json.loads(refused.value.read())["reason"] == "Expired"


async def test_our_reflector_sees_changes_across_a_crash(api_server: RunningServer) -> None:
    seen: asyncio.Queue[ObjectChange] = asyncio.Queue()
    async with connect_api(api_server.kubeconfig) as api:
        reflector = Reflector(api, CONFIGMAPS, seen.put_nowait, namespace="default")
        running = asyncio.create_task(reflector.run())
        await reflector.wait_synced(10)
        await api.create(CONFIGMAPS, {"metadata": {"name": "before"}}, "default")
        assert (await asyncio.wait_for(seen.get(), 5)).object["metadata"]["name"] == "before"
        api_server.kill()
        await asyncio.to_thread(api_server.start)
        await api.create(CONFIGMAPS, {"metadata": {"name": "after"}}, "default")
        change = await asyncio.wait_for(seen.get(), 10)
        assert change.object["metadata"]["name"] == "after"
        running.cancel()


def test_kubectl_waits_by_watching(server: RunningServer, core: Any, namespace: str, tmp_path: Path) -> None:
    core.create_namespaced_pod(namespace, pod("a"))
    command = [str(KUBECTL), "--kubeconfig", str(server.kubeconfig), "-n", namespace]
    with subprocess.Popen(
        [*command, "wait", "--for=jsonpath={.metadata.labels.go}=yes", "pod/a", "--timeout=20s"],
        stdout=subprocess.PIPE,
        text=True,
    ) as waiting:
        core.patch_namespaced_pod("a", namespace, {"metadata": {"labels": {"go": "yes"}}})
        out, _ = waiting.communicate(timeout=20)
    assert (waiting.returncode, out.strip()) == (0, "pod/a condition met")
