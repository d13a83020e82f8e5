"""Which pods a policy selects follows every change of pods, namespaces and nodes at once."""

from __future__ import annotations

from egresslab.policy.entries import Delete
from egresslab.policy.inventory import Kind, Ref
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
