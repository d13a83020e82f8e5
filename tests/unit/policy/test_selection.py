"""Which pods a policy selects follows every change of pods, namespaces and nodes at once."""

from __future__ import annotations

import pytest

from egresslab.policy.entries import Delete, Reason
from egresslab.policy.inventory import Kind, Ref
from egresslab.policy.settings import Fidelity, Settings
from tests.unit.policy import build

TO = ("10.0.0.1", "203.0.113.0/24")
GW, WEB = build.node("gw", 2), build.pod("a", "10.0.0.1")


def selecting(**parts: object) -> build.Object:
    return build.cilium(selectors=[parts])


def test_relabelling_a_namespace() -> None:
    told = build.engine(GW, WEB, selecting(namespaceSelector={"matchLabels": {"team": "a"}}))
    assert TO not in build.rows(told)
    changes = build.tell(told, build.namespace("default", team="a"))
    assert len(changes.entries) == 1
    assert TO in build.rows(told)
    build.tell(told, build.namespace("default", team="b"))
    assert TO not in build.rows(told)
    build.tell(told, build.namespace("default", team="a"))
    told.apply(Delete(Ref(Kind.NAMESPACE, "default")))
    assert TO not in build.rows(told)


def test_a_namespace_that_no_label_rule_excludes() -> None:
    told = build.engine(
        GW, WEB, selecting(namespaceSelector={"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]})
    )
    assert TO in build.rows(told)
    build.tell(told, build.namespace("default", x="1"))
    assert TO not in build.rows(told)


def test_relabelling_the_node_of_a_pod() -> None:
    on_z = selecting(podSelector={}, nodeSelector={"matchLabels": {"zone": "z"}})
    told = build.engine(GW, WEB, on_z)
    assert TO not in build.rows(told), "the node is not known"
    build.tell(told, build.node("worker", 4, gateway=False, labels={"zone": "z"}))
    assert TO in build.rows(told)
    build.tell(told, build.node("worker", 4, gateway=False))
    assert TO not in build.rows(told)
    build.tell(told, build.node("worker", 4, gateway=False, labels={"zone": "z"}))
    told.apply(Delete(Ref(Kind.NODE, "worker")))
    assert TO not in build.rows(told)


def test_relabelling_and_moving_a_pod() -> None:
    told = build.engine(GW, WEB, build.cilium())
    assert TO in build.rows(told)
    build.tell(told, build.pod("a", "10.0.0.1", labels={"app": "other"}))
    assert build.rows(told) == {}
    build.tell(told, build.pod("a", "10.0.0.2"))
    assert set(build.rows(told)) == {("10.0.0.2", TO[1])}


def test_the_namespace_is_a_label_of_its_pods() -> None:
    both = {"matchLabels": {"app": "web", "io.kubernetes.pod.namespace": "default"}}
    told = build.engine(GW, WEB, build.pod("b", "10.0.0.2", namespace="other"), selecting(podSelector=both))
    assert set(build.rows(told)) == {TO}


def test_a_pod_made_anew_under_its_name_is_another_pod() -> None:
    told = build.engine(GW, build.cilium(), WEB)
    again = build.pod("a", "10.0.0.9")
    again["metadata"]["uid"] = "another"
    build.tell(told, again)
    assert len(build.rows(told)) == 2
    told.apply(Delete(Ref(Kind.POD, WEB["metadata"]["uid"])))
    assert set(build.rows(told)) == {("10.0.0.9", TO[1])}


def test_a_namespace_nobody_told_of_still_has_the_label_with_its_name() -> None:
    """Manifests seldom hold Namespace objects; every API server gives each one this label."""
    by_name = {"kubernetes.io/metadata.name": "default"}
    told = build.engine(GW, WEB, selecting(namespaceSelector={"matchLabels": by_name}))
    assert TO in build.rows(told)
    build.tell(told, build.namespace("default", team="a"))
    told.apply(Delete(Ref(Kind.NAMESPACE, "default")))
    assert TO in build.rows(told)
    other = build.engine(GW, WEB, selecting(namespaceSelector={"matchLabels": {**by_name, "team": "a"}}))
    assert build.rows(other) == {}


@pytest.mark.parametrize("settings", [Settings(), Settings(fidelity=Fidelity.CILIUM)], ids=["ours", "cilium"])
@pytest.mark.parametrize("operator", ["everything", "NotIn", "DoesNotExist", "In", "Exists"])
def test_a_node_nobody_told_of_is_one_without_labels(operator: str, settings: Settings) -> None:
    values = {"values": ["z"]} if operator in ("In", "NotIn") else {}
    expression = {"key": "zone", "operator": operator, **values}
    nodes = {} if operator == "everything" else {"matchExpressions": [expression]}
    told = build.engine(GW, WEB, selecting(podSelector={}, nodeSelector=nodes), settings=settings)
    assert (TO in build.rows(told)) is (operator in ("everything", "NotIn", "DoesNotExist"))


@pytest.mark.parametrize(("team", "selected"), [("a", True), ("b", False)])
def test_labels_of_the_namespace_in_a_pod_selector(team: str, selected: bool) -> None:
    """Cilium matches a podSelector on identity labels, and the namespace's labels are among them."""
    key = "io.cilium.k8s.namespace.labels.team"
    told = build.engine(
        GW, WEB, build.namespace("default", team="a"), selecting(podSelector={"matchLabels": {"app": "web", key: team}})
    )
    assert (TO in build.rows(told)) is selected
    both = selecting(podSelector={"matchLabels": {key: "a"}}, namespaceSelector={"matchLabels": {"team": team}})
    told = build.engine(GW, WEB, build.namespace("default", team="a"), both)
    assert (TO in build.rows(told)) is selected


def test_pods_on_the_hosts_network_are_no_cause_of_conflicts() -> None:
    host = build.pod("h", "192.168.60.4")
    host["spec"]["hostNetwork"] = True
    eth1 = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "interface": "eth1"}
    told = build.engine(GW, host, build.cilium("p"), build.cilium("q", egressGateway=eth1))
    assert not told.problems()
    build.tell(told, WEB)
    assert [problem.reason for problem in told.problems()] == [Reason.CONFLICT] * 2
