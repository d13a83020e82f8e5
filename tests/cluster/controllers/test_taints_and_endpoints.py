"""What a node's health does to its taints, how long pods bear them, and which addresses a service stands for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from egresslab.cluster.controllers.nodehealth import silent_conditions, taints_due
from egresslab.cluster.controllers.serviceendpoints import legacy, slices
from egresslab.cluster.controllers.tolerations import Effect, Taint, bearing_s, parse_tolerations

Object = dict[str, Any]

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def node(ready: str | None, *, unschedulable: bool = False, taints: list[Object] | None = None) -> Object:
    conditions = [{"type": "Ready", "status": ready}] if ready else []
    spec = {"unschedulable": unschedulable, "taints": taints or []}
    return {"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("ready", "evicting", "expected"),
    [
        ("True", True, []),
        ("False", True, [("not-ready", "NoSchedule"), ("not-ready", "NoExecute")]),
        ("Unknown", True, [("unreachable", "NoSchedule"), ("unreachable", "NoExecute")]),
        ("Unknown", False, [("unreachable", "NoSchedule")]),
        (None, True, [("not-ready", "NoSchedule")]),
    ],
)
def test_readiness_becomes_taints(ready: str | None, evicting: bool, expected: list[tuple[str, str]]) -> None:
    foreign = {"key": "mine", "effect": "NoSchedule"}
    due = taints_due(node(ready, taints=[foreign]), evicting=evicting, at=NOW)
    found = [foreign] if due is None else due
    assert found[0] == foreign
    assert [(item["key"].removeprefix("node.kubernetes.io/"), item["effect"]) for item in found[1:]] == expected
    assert taints_due(node(ready, taints=found), evicting=evicting, at=NOW) is None


def test_recovery_and_uncordon_remove_only_what_is_ours() -> None:
    taints = taints_due(node("Unknown", unschedulable=True), evicting=True, at=NOW) or []
    assert [item["key"].rpartition("/")[2] for item in taints] == ["unreachable", "unreachable", "unschedulable"]
    foreign = {"key": "mine", "effect": "NoSchedule"}
    assert taints_due(node("True", taints=[*taints, foreign]), evicting=True, at=NOW) == [foreign]


def test_a_silent_node_is_unknown_in_everything_it_used_to_report() -> None:
    written = {item["type"]: item for item in silent_conditions(node("True") | {"status": node("True")["status"]}, NOW)}
    assert set(written) == {"Ready", "MemoryPressure", "DiskPressure", "PIDPressure"}
    assert written["Ready"]["message"] == "Kubelet stopped posting node status."
    assert written["DiskPressure"]["reason"] == "NodeStatusNeverUpdated"


@pytest.mark.parametrize(
    ("tolerations", "expected"),
    [
        ([], 0),
        ([{"key": "gone", "operator": "Exists"}], None),
        ([{"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}], 300),
        ([{"operator": "Exists"}, {"key": "gone", "operator": "Exists", "tolerationSeconds": 5}], 5),
        ([{"key": "gone", "operator": "Exists", "effect": "NoSchedule"}], 0),
        ([{"key": "gone", "value": "other"}], 0),
    ],
)
def test_how_long_a_pod_bears_a_taint(tolerations: list[Object], expected: float | None) -> None:
    taint = Taint("gone", "", Effect.NO_EXECUTE)
    assert bearing_s(taint, parse_tolerations({"tolerations": tolerations})) == expected


def service(**spec: object) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": "web"}]
    metadata = {"name": "svc", "namespace": "ns", "uid": "u"}
    return {"metadata": metadata, "spec": {"selector": {"app": "web"}, "ports": ports, **spec}}


def pod(name: str, *ips: str, ready: bool = True, port: int = 8080, app: str = "web") -> Object:
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": app}},
        "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "web", "containerPort": port}]}]},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


def test_a_service_stands_for_the_ready_addresses_of_its_pods() -> None:
    pods = [pod("b", "10.0.0.2"), pod("a", "10.0.0.1", ready=False), pod("other", "10.0.0.3", app="db"), pod("new")]
    [found] = slices(service(), pods).values()
    assert [(item["addresses"], item["conditions"]["ready"]) for item in found["endpoints"]] == [
        (["10.0.0.1"], False),
        (["10.0.0.2"], True),
    ]
    assert found["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    [subset] = legacy(service(), {"x": found})["subsets"]
    assert [item["ip"] for item in subset["addresses"]] == ["10.0.0.2"]
    assert [item["ip"] for item in subset["notReadyAddresses"]] == ["10.0.0.1"]


def test_families_and_differing_ports_get_slices_of_their_own_with_lasting_names() -> None:
    pods = [pod("a", "10.0.0.1", "fd00::1"), pod("b", "10.0.0.2", "fd00::2", port=9090)]
    found = slices(service(ipFamilies=["IPv4", "IPv6"]), pods)
    assert len(found) == 4
    assert found == slices(service(ipFamilies=["IPv4", "IPv6"]), list(reversed(pods)))


def test_a_service_without_pods_has_an_empty_slice_and_one_without_selector_none() -> None:
    [empty] = slices(service(), []).values()
    assert empty["endpoints"] == []
    assert slices(service(selector=None), [pod("a", "10.0.0.1")]) == {}
