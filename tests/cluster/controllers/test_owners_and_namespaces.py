"""What goes with what: owners and dependents of any kind, and everything in a namespace that is deleted."""

from __future__ import annotations

from typing import Any

import pytest

from egresslab.api.connection import ApiError
from egresslab.api.resources import (
    CONFIGMAPS,
    CRDS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    NAMESPACES,
    PODS,
    REPLICASETS,
    SERVICE_ACCOUNTS,
    Object,
    Resource,
)
from tests.cluster.controllers.conftest import Cluster, deployment

WIDGETS = Resource("example.com", "v1", "widgets", "Widget")


def config_map(name: str, *owners: Object, namespace: str = "default", **metadata: Any) -> Object:
    references = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": True,
        }
        for owner in owners
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": references, **metadata},
    }


async def create(cluster: Cluster, body: Object, resource: Resource = CONFIGMAPS) -> Object:
    return await cluster.api.create(resource, body, body["metadata"].get("namespace"))


def names(items: list[Object]) -> set[str]:
    return {item["metadata"]["name"] for item in items} - {"kube-root-ca.crt"}


async def test_dependents_go_when_their_last_owner_is_gone(cluster: Cluster) -> None:
    first, second = [await create(cluster, config_map(name)) for name in ("first", "second")]
    both = await create(cluster, config_map("both", first, second))
    await create(cluster, config_map("one", first))
    await create(cluster, config_map("grandchild", both))
    await cluster.api.delete(CONFIGMAPS, "first", "default")
    items = await cluster.until(
        CONFIGMAPS,
        lambda items: (
            any(item["metadata"]["name"] == "both" and len(item["metadata"]["ownerReferences"]) == 1 for item in items)
            and "one" not in names(items)
        ),
        namespace="default",
    )
    assert names(items) == {"second", "both", "grandchild"}
    await cluster.api.delete(CONFIGMAPS, "second", "default")
    await cluster.until(CONFIGMAPS, lambda items: names(items) == set(), namespace="default")


async def test_a_dependent_of_nobody_is_garbage_and_one_of_an_unknown_kind_is_not(cluster: Cluster) -> None:
    ghost = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ghost", "uid": "never"}}
    stranger = {"apiVersion": "unknown.example.com/v1", "kind": "Thing", "metadata": {"name": "x", "uid": "other"}}
    await create(cluster, config_map("of-stranger", stranger))
    await create(cluster, config_map("of-ghost", ghost))
    items = await cluster.until(CONFIGMAPS, lambda items: "of-ghost" not in names(items), namespace="default")
    assert names(items) == {"of-stranger"}


@pytest.mark.parametrize(("cascade", "left"), [("background", False), ("foreground", False), ("orphan", True)])
async def test_kubectl_delete_with_each_way_of_cascading(cluster: Cluster, cascade: str, left: bool) -> None:
    await cluster.apply(deployment("web", 2))
    await cluster.kubelets.until("both run", lambda: len(cluster.kubelets.running(app="web")) == 2)
    await cluster.kubectl("delete", "deployment", "web", f"--cascade={cascade}", "--timeout=30s")
    await cluster.until(DEPLOYMENTS, lambda items: not items)
    if cascade == "foreground":
        assert (await cluster.api.list(PODS))[0] == [], "the owner went last"
    sets = await cluster.until(REPLICASETS, lambda items: bool(items) is left)
    await cluster.until(PODS, lambda items: (len(items) == 2) is left)
    assert all("ownerReferences" not in item["metadata"] for item in sets)
    if left:
        await cluster.apply(deployment("web", 2))
        await cluster.until(REPLICASETS, lambda items: "ownerReferences" in items[0]["metadata"])
        await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
        assert len(cluster.kubelets.seen) == 2, "what was orphaned is adopted, not made again"


def widget_definition() -> Object:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


async def test_custom_resources_own_and_are_emptied_like_others(cluster: Cluster) -> None:
    await create(cluster, widget_definition(), CRDS)
    await cluster.kubectl("wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s")
    body = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "default"}}
    widget = await create(cluster, body, WIDGETS)
    await create(cluster, config_map("child", widget))
    await cluster.api.delete(WIDGETS, "w", "default")
    await cluster.until(CONFIGMAPS, lambda items: names(items) == set(), namespace="default")
    await create(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}, NAMESPACES)
    await create(cluster, {**body, "metadata": {"name": "w", "namespace": "shop"}}, WIDGETS)
    await cluster.kubectl("delete", "namespace", "shop", "--timeout=30s")
    assert (await cluster.api.list(WIDGETS))[0] == []


async def test_a_namespace_is_furnished_emptied_and_gone(cluster: Cluster) -> None:
    await cluster.kubectl("create", "namespace", "demo")
    await cluster.until(SERVICE_ACCOUNTS, lambda items: names(items) == {"default"}, namespace="demo")
    [bundle] = await cluster.until(CONFIGMAPS, lambda items: len(items) == 1, namespace="demo")
    assert bundle["data"]["ca.crt"].startswith("-----BEGIN CERTIFICATE-----")
    await cluster.kubectl("create", "deployment", "web", "--image=busybox", "--replicas=3", "-n", "demo")
    await cluster.kubelets.until("three run", lambda: len(cluster.kubelets.running(app="web")) == 3)
    await create(cluster, config_map("held", namespace="demo", finalizers=["example.com/hold"]))
    await cluster.kubectl("delete", "namespace", "demo", "--wait=false")
    namespaces = await cluster.until(
        NAMESPACES,
        lambda items: any(
            condition["type"] == "NamespaceFinalizersRemaining"
            for item in items
            for condition in item["status"].get("conditions") or ()
        ),
    )
    assert any(item["status"]["phase"] == "Terminating" for item in namespaces)
    with pytest.raises(ApiError, match="because it is being terminated"):
        await create(cluster, config_map("late", namespace="demo"))
    await cluster.api.patch(CONFIGMAPS, "held", {"metadata": {"finalizers": None}}, "demo")
    await cluster.until(NAMESPACES, lambda items: "demo" not in names(items))
    assert (await cluster.api.list(PODS, "demo"))[0] == []


async def test_what_every_namespace_has_comes_back_when_deleted(cluster: Cluster) -> None:
    await cluster.until(SERVICE_ACCOUNTS, lambda items: bool(items), namespace="default")
    [account], _ = await cluster.api.list(SERVICE_ACCOUNTS, "default")
    await cluster.kubectl("delete", "serviceaccount", "default")
    await cluster.until(
        SERVICE_ACCOUNTS,
        lambda items: bool(items) and items[0]["metadata"]["uid"] != account["metadata"]["uid"],
        namespace="default",
    )


async def test_endpoints_follow_the_pods_of_a_service(cluster: Cluster) -> None:
    await cluster.apply(deployment("web", 2))
    await cluster.kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080")
    await cluster.kubelets.until("both run", lambda: len(cluster.kubelets.running(app="web")) == 2)

    def addresses(items: list[Object]) -> list[str]:
        return sorted(
            endpoint["addresses"][0]
            for item in items
            if item["metadata"]["labels"].get("kubernetes.io/service-name") == "web"
            for endpoint in item["endpoints"] or ()
            if endpoint["conditions"]["ready"]
        )

    def wanted() -> list[str]:
        return sorted(pod["status"]["podIP"] for pod in cluster.kubelets.running(app="web"))

    await cluster.until(ENDPOINT_SLICES, lambda items: addresses(items) == wanted(), namespace="default")
    await cluster.kubectl("scale", "deployment", "web", "--replicas=4")
    await cluster.until(
        ENDPOINT_SLICES, lambda items: len(addresses(items)) == 4 and addresses(items) == wanted(), namespace="default"
    )
    await cluster.kubectl("delete", "service", "web")
    await cluster.until(ENDPOINT_SLICES, lambda items: addresses(items) == [], namespace="default")
    await cluster.until(ENDPOINTS, lambda items: "web" not in names(items), namespace="default")
