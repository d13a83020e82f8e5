"""When a lab counts as ready, and what is said when it does not become so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from egresslab.api.resources import NODES, Object, Resource
from egresslab.environments.definitions import read_manifests
from egresslab.environments.netns.manifests import Applier
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.readiness import is_rolled_out, tail, wait_for_nodes
from egresslab.errors import EnvironmentFailure


def daemon_set(**status: int) -> Object:
    """A DaemonSet meant for every node."""
    template = {"spec": {"tolerations": [{"operator": "Exists"}]}}
    return {"kind": "DaemonSet", "metadata": {"generation": 2}, "spec": {"template": template}, "status": status}


def deployment(**status: int) -> Object:
    """A Deployment of two."""
    return {"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}


FOUR = {"observedGeneration": 2, "desiredNumberScheduled": 4, "updatedNumberScheduled": 4, "numberReady": 4}
TWO = {"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 2}


@pytest.mark.parametrize(
    ("workload", "done"),
    [
        (daemon_set(**FOUR), True),
        (daemon_set(**{**FOUR, "numberReady": 3}), False),
        (daemon_set(**{**FOUR, "updatedNumberScheduled": 3}), False),
        (daemon_set(**{**FOUR, "observedGeneration": 1}), False),
        # All that were scheduled are ready, but two nodes have only just come.
        (daemon_set(**{**FOUR, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberReady": 2}), False),
        (daemon_set(), False),
        (deployment(**TWO), True),
        (deployment(**{**TWO, "readyReplicas": 1}), False),
        (deployment(**{**TWO, "updatedReplicas": 1}), False),
        (deployment(), False),
    ],
)
def test_rolled_out_means_the_newest_template_runs_everywhere(workload: Object, done: bool) -> None:
    assert is_rolled_out(workload, 4) is done


class Server:
    """Stands for an API server with two nodes, one of which never becomes Ready."""

    def __init__(self) -> None:
        self.applied: list[str] = []

    async def list(self, resource: Resource, *_: Any, **__: Any) -> tuple[list[Object], str]:
        """Two nodes."""
        assert resource == NODES
        return [
            {
                "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
                "status": {"conditions": [{"type": "Ready", "status": status}]},
            }
            for name, status in (("a", "True"), ("b", "False"))
        ], "1"

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Object]:
        """Nothing ever happens."""
        import asyncio

        await asyncio.Event().wait()
        yield {}

    async def request(self, method: str, path: str) -> Object:
        """Discovery."""
        kinds = {"/api/v1": ["Namespace", "Pod"], "/apis/apiextensions.k8s.io/v1": ["CustomResourceDefinition"]}
        return {
            "resources": [
                {"kind": kind, "name": f"{kind.lower()}s", "namespaced": kind == "Pod"} for kind in kinds[path]
            ]
        }

    async def apply(self, resource: Resource, body: Object, *, field_manager: str) -> Object:
        """Server-side apply."""
        self.applied.append(resource.path(body["metadata"].get("namespace"), body["metadata"]["name"]))
        return body


async def test_nodes_that_stay_unready_are_named_with_the_end_of_their_log(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egresslab.environments.netns.paths.STATE", tmp_path)
    paths = LabPaths("slow")
    paths.logs.mkdir(parents=True)
    paths.log("node-b").write_text("starting\nno bridge\n")
    with pytest.raises(EnvironmentFailure) as failure:
        await wait_for_nodes(Server(), paths, ["a", "b", "c"], 0.05)  # type: ignore[arg-type]
    assert "nodes are not Ready within 0.05 s: b, c" in failure.value.message
    assert "no bridge" in failure.value.message
    assert failure.value.fix


async def test_namespaces_and_definitions_are_applied_before_the_rest(tmp_path: Any) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: n}\n---\n"
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: c}\n---\n"
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n"
    )
    server = Server()
    await Applier(server).apply_all(read_manifests([file]))  # type: ignore[arg-type]
    assert server.applied == [
        "/api/v1/namespaces/n",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/c",
        "/api/v1/namespaces/n/pods/p",
    ]


async def test_kind_that_is_not_served_is_named(tmp_path: Any) -> None:
    objects = [{"apiVersion": "v1", "kind": "Gadget", "metadata": {"name": "g"}}]
    with pytest.raises(EnvironmentFailure, match="Gadget/g: apiVersion: the API server does not serve this kind"):
        await Applier(Server()).apply_all(objects)  # type: ignore[arg-type]


def test_tail_of_a_log_that_is_not_there(tmp_path: Any) -> None:
    assert "no log" in tail(tmp_path / "none.log")
