"""Writing: identity, conflicts, dry runs, deletion with grace and finalizers, subresources, pages."""

from __future__ import annotations

from typing import Any

import kubernetes
import pytest
from kubernetes.client import ApiException

from tests.cluster.apiserver.conftest import Kubectl, pod


def refused(call: Any, *arguments: Any, **more: Any) -> ApiException:
    """The error of a call that must fail."""
    with pytest.raises(ApiException) as caught:
        call(*arguments, **more)
    return caught.value


def test_generate_name_makes_names_that_differ(core: Any, namespace: str) -> None:
    body = pod("")
    body["metadata"] = {"generateName": "web-"}
    names = {core.create_namespaced_pod(namespace, body).metadata.name for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


def test_the_server_decides_identity_and_status(core: Any, namespace: str) -> None:
    body = pod("a")
    body["metadata"] |= {"uid": "mine", "resourceVersion": "5", "creationTimestamp": "2001-01-01T00:00:00Z"}
    made = core.create_namespaced_pod(namespace, {**body, "status": {"phase": "Running"}})
    assert made.metadata.uid != "mine"
    assert made.metadata.creation_timestamp.year > 2001
    assert made.status.phase == "Pending"


def test_an_update_of_an_old_version_is_a_conflict(core: Any, namespace: str) -> None:
    old = core.create_namespaced_config_map(namespace, {"metadata": {"name": "c"}, "data": {"a": "1"}})
    core.patch_namespaced_config_map("c", namespace, {"data": {"a": "2"}})
    old.data = {"a": "3"}
    error = refused(core.replace_namespaced_config_map, "c", namespace, old)
    assert error.status == 409
    assert "the object has been modified; please apply your changes to the latest version" in error.body
    old.metadata.resource_version = None
    assert core.replace_namespaced_config_map("c", namespace, old).data == {"a": "3"}


def test_a_write_that_changes_nothing_is_no_new_version(core: Any, namespace: str) -> None:
    first = core.create_namespaced_config_map(namespace, {"metadata": {"name": "c"}, "data": {"a": "1"}})
    second = core.patch_namespaced_config_map("c", namespace, {"data": {"a": "1"}})
    assert first.metadata.resource_version == second.metadata.resource_version


def test_a_dry_run_answers_and_keeps_nothing(core: Any, namespace: str) -> None:
    made = core.create_namespaced_config_map(namespace, {"metadata": {"name": "c"}}, dry_run="All")
    assert made.metadata.uid
    assert refused(core.read_namespaced_config_map, "c", namespace).status == 404


def test_a_pod_without_a_node_goes_at_once(core: Any, namespace: str) -> None:
    core.create_namespaced_pod(namespace, pod("a"))
    core.delete_namespaced_pod("a", namespace)
    assert refused(core.read_namespaced_pod, "a", namespace).status == 404


def test_a_pod_on_a_node_stays_until_its_kubelet_confirms(core: Any, namespace: str) -> None:
    body = pod("a")
    body["spec"]["nodeName"] = "n1"
    core.create_namespaced_pod(namespace, body)
    ending = core.delete_namespaced_pod("a", namespace, grace_period_seconds=20)
    assert ending.metadata.deletion_grace_period_seconds == 20
    again = core.delete_namespaced_pod("a", namespace, grace_period_seconds=60)
    assert again.metadata.deletion_timestamp == ending.metadata.deletion_timestamp
    shorter = core.delete_namespaced_pod("a", namespace, grace_period_seconds=1)
    assert shorter.metadata.deletion_timestamp < ending.metadata.deletion_timestamp
    core.patch_namespaced_pod_status("a", namespace, {"status": {"phase": "Succeeded"}})
    core.delete_namespaced_pod("a", namespace, grace_period_seconds=0)
    assert refused(core.read_namespaced_pod, "a", namespace).status == 404


def test_an_object_with_finalizers_stays_until_they_are_gone(core: Any, namespace: str) -> None:
    metadata = {"name": "c", "finalizers": ["example.com/hold"]}
    core.create_namespaced_config_map(namespace, {"metadata": metadata})
    core.delete_namespaced_config_map("c", namespace)
    held = core.read_namespaced_config_map("c", namespace)
    assert held.metadata.deletion_timestamp
    patch = {"metadata": {"finalizers": ["example.com/hold", "example.com/new"]}}
    assert refused(core.patch_namespaced_config_map, "c", namespace, patch).status == 422
    core.patch_namespaced_config_map("c", namespace, {"metadata": {"finalizers": None}})
    assert refused(core.read_namespaced_config_map, "c", namespace).status == 404


def test_the_garbage_collector_is_told_by_finalizers(client: Any, namespace: str) -> None:
    core = kubernetes.client.CoreV1Api(client)
    for policy, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
        core.create_namespaced_config_map(namespace, {"metadata": {"name": policy.lower()}})
        core.delete_namespaced_config_map(policy.lower(), namespace, propagation_policy=policy)
        held = core.read_namespaced_config_map(policy.lower(), namespace)
        assert held.metadata.finalizers == [finalizer]


def test_a_precondition_protects_a_namesake(core: Any, namespace: str) -> None:
    core.create_namespaced_pod(namespace, pod("a"))
    body = {"preconditions": {"uid": "another"}}
    assert refused(core.delete_namespaced_pod, "a", namespace, body=body).status == 409
    assert core.read_namespaced_pod("a", namespace)


def test_delete_collection_takes_what_is_selected(core: Any, namespace: str) -> None:
    for name, team in (("a", "x"), ("b", "y"), ("c", "x")):
        core.create_namespaced_pod(namespace, pod(name, team=team))
    core.delete_collection_namespaced_pod(namespace, label_selector="team=x")
    assert [item.metadata.name for item in core.list_namespaced_pod(namespace).items] == ["b"]


def test_a_namespace_that_ends_takes_nothing_new(core: Any, namespace: str) -> None:
    core.delete_namespace(namespace)
    assert core.read_namespace(namespace).status.phase == "Terminating"
    error = refused(core.create_namespaced_pod, namespace, pod("a"))
    assert error.status == 403
    assert "because it is being terminated" in error.body
    core.replace_namespace_finalize(namespace, {"metadata": {"name": namespace}, "spec": {"finalizers": []}})
    assert refused(core.read_namespace, namespace).status == 404
    assert refused(core.create_namespaced_pod, namespace, pod("a")).status == 404


def test_pages_give_everything_once(core: Any, namespace: str) -> None:
    for number in range(7):
        core.create_namespaced_config_map(namespace, {"metadata": {"name": f"c{number}"}})
    found, token = [], None
    while True:
        page = core.list_namespaced_config_map(namespace, limit=3, _continue=token)
        found += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
        assert len(page.items) == 3
    assert found == [f"c{number}" for number in range(7)]


def test_a_pod_is_bound_once(core: Any, namespace: str) -> None:
    core.create_namespaced_pod(namespace, pod("a"))
    binding = {"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}}
    core.create_namespaced_pod_binding("a", namespace, binding, _preload_content=False)
    bound = core.read_namespaced_pod("a", namespace)
    assert bound.spec.node_name == "n1"
    assert [(c.type, c.status) for c in bound.status.conditions] == [("PodScheduled", "True")]
    error = refused(core.create_namespaced_pod_binding, "a", namespace, binding, _preload_content=False)
    assert error.status == 409


def test_a_budget_forbids_an_eviction_for_now(client: Any, namespace: str) -> None:
    core, policy = kubernetes.client.CoreV1Api(client), kubernetes.client.PolicyV1Api(client)
    core.create_namespaced_pod(namespace, pod("a", app="web"))
    core.patch_namespaced_pod_status("a", namespace, {"status": {"phase": "Running"}})
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    policy.create_namespaced_pod_disruption_budget(namespace, {"metadata": {"name": "b"}, "spec": spec})
    eviction = {"metadata": {"name": "a", "namespace": namespace}}
    assert refused(core.create_namespaced_pod_eviction, "a", namespace, eviction).status == 429
    policy.patch_namespaced_pod_disruption_budget_status("b", namespace, {"status": {"disruptionsAllowed": 1}})
    core.create_namespaced_pod_eviction("a", namespace, eviction, _preload_content=False)
    assert refused(core.read_namespaced_pod, "a", namespace).status == 404


def test_strategic_merge_merges_lists_by_key(kubectl: Kubectl, core: Any, namespace: str) -> None:
    body = pod("a")
    body["spec"]["tolerations"] = []
    core.create_namespaced_pod(namespace, body)
    conditions = [{"type": "Ready", "status": "False"}, {"type": "Initialized", "status": "True"}]
    core.patch_namespaced_pod_status("a", namespace, {"status": {"conditions": conditions}})
    core.patch_namespaced_pod_status("a", namespace, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    found = core.read_namespaced_pod("a", namespace).status.conditions
    assert {c.type: c.status for c in found} == {"Ready": "True", "Initialized": "True"}
    directive = {"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}}
    core.patch_namespaced_pod_status("a", namespace, directive)
    assert [c.type for c in core.read_namespaced_pod("a", namespace).status.conditions] == ["Initialized"]


def test_an_event_is_one_object_in_two_groups(client: Any, namespace: str) -> None:
    core, events = kubernetes.client.CoreV1Api(client), kubernetes.client.EventsV1Api(client)
    body = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": namespace},
        "reason": "Tested",
        "message": "as seen",
        "type": "Normal",
    }
    core.create_namespaced_event(namespace, body)
    shown = events.read_namespaced_event("e", namespace, _preload_content=False).json()
    assert (shown["regarding"]["name"], shown["note"]) == ("a", "as seen")
    assert "message" not in shown
    selected = core.list_namespaced_event(namespace, field_selector="involvedObject.name=a,reason=Tested")
    assert [item.metadata.name for item in selected.items] == ["e"]


def test_the_dynamic_client_finds_custom_kinds(dynamic: Any) -> None:
    kind = dynamic.resources.get(api_version="egresslab.dev/v1alpha1", kind="EgressGateway")
    made = kind.create({"kind": "EgressGateway", "metadata": {"name": "g"}, "spec": {"nodeSelector": {}}})
    assert made.metadata.generation == 1
    changed = kind.status.patch(
        {"metadata": {"name": "g"}, "status": {"readyNodes": 2}}, content_type="application/merge-patch+json"
    )
    assert (changed.status.readyNodes, changed.metadata.generation) == (2, 1)
    changed = kind.patch(
        {"metadata": {"name": "g"}, "spec": {"mode": "Spread"}}, content_type="application/merge-patch+json"
    )
    assert changed.metadata.generation == 2
    kind.delete(name="g")
