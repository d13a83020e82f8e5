"""The label that lets a policy mean the pods of one node: put there by the operator's webhook when a pod is bound."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from egresslab.api.connection import Api, connect
from egresslab.api.resources import PODS, Object
from egresslab.cluster.apiserver.patches import json_patch
from egresslab.cluster.testing import free_port, running_server
from egresslab.environments.definitions import definitions, read_manifests
from egresslab.operator.webhook import CONFIGURATIONS, NAME, review, serve_webhook

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def answered(obj: Object) -> Object:
    """The object after the webhook."""
    response = review({"request": {"uid": "u", "object": obj}})["response"]
    assert (response["uid"], response["allowed"]) == ("u", True)
    changed: Object = json_patch(obj, json.loads(base64.b64decode(response["patch"]))) if "patch" in response else obj
    return changed


def test_only_the_label_is_added() -> None:
    bound = {"kind": "Binding", "metadata": {"name": "a"}, "target": {"name": "n1"}}
    assert answered(bound)["metadata"] == {"name": "a", "labels": {"node": "n1"}}
    placed = {"kind": "Pod", "metadata": {"labels": {"app": "x"}}, "spec": {"nodeName": "n2"}}
    assert answered(placed)["metadata"]["labels"] == {"app": "x", "node": "n2"}
    for left_alone in (
        {"kind": "Pod", "metadata": {}, "spec": {}},
        {"kind": "Pod", "metadata": {"labels": {"node": "mine"}}, "spec": {"nodeName": "n2"}},
    ):
        assert answered(left_alone) == left_alone


@given(JUNK)
def test_what_is_no_review_is_refused(junk: Any) -> None:
    with pytest.raises(ValueError, match="AdmissionReview"):
        review(junk)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[tuple[Api, Object]]:
    """An API server that has the shipped configuration, for a port of the test's own; and that configuration."""
    shipped = read_manifests([definitions("netns") / "manifests" / "webhook.yaml"])
    configuration = next(obj for obj in shipped if obj["kind"] == CONFIGURATIONS.kind)
    configuration["webhooks"][0]["clientConfig"]["url"] = f"https://127.0.0.1:{free_port()}/"
    with running_server(tmp_path) as server:
        async with connect(server.kubeconfig) as connection:
            await connection.create(CONFIGURATIONS, configuration)
            yield connection, configuration


async def _pod(api: Api, name: str, node: str, **spec: Any) -> dict[str, str]:
    """Labels of a new pod once it has its node."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "main", "image": "busybox"}], **spec},
    }
    await api.create(PODS, body, "default")
    if "nodeName" not in spec:
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"name": node}}
        await api.request("POST", f"/api/v1/namespaces/default/pods/{name}/binding", binding)
    pod = await api.get(PODS, name, "default")
    labels: dict[str, str] = pod["metadata"]["labels"]
    return labels


async def test_a_pod_bears_its_node_from_when_it_has_one(api: tuple[Api, Object]) -> None:
    connection, configuration = api
    port = int(configuration["webhooks"][0]["clientConfig"]["url"].rstrip("/").rpartition(":")[2])
    assert await _pod(connection, "early", "n1") == {"app": "x"}, (
        "nobody answers yet, and the pod is bound all the same"
    )
    async with serve_webhook(connection, port):
        async for event in connection.watch(CONFIGURATIONS, "1"):
            if event["object"]["webhooks"][0]["clientConfig"].get("caBundle"):
                break
        assert await _pod(connection, "bound", "n1") == {"app": "x", "node": "n1"}
        assert await _pod(connection, "placed", "n2", nodeName="n2") == {"app": "x", "node": "n2"}
    assert await _pod(connection, "late", "n1") == {"app": "x"}


def test_the_operator_may_change_this_configuration_and_no_other() -> None:
    shipped = read_manifests([definitions("netns") / "manifests" / "webhook.yaml"])
    (role,) = (obj for obj in shipped if obj["kind"] == "ClusterRole")
    (rule,) = role["rules"]
    assert (rule["verbs"], rule["resourceNames"], rule["resources"]) == (["patch"], [NAME], [CONFIGURATIONS.plural])


def test_kyvernos_rule_sets_the_same_label() -> None:
    path = definitions("netns").parent / "kind" / "pod-node-kyverno.yaml"
    policy = yaml.safe_load(path.read_text())
    labels = [rule["mutate"]["patchStrategicMerge"]["metadata"]["labels"] for rule in policy["spec"]["rules"]]
    assert all(list(item) == ["+(node)"] for item in labels)
