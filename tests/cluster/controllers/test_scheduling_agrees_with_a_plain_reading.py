"""Placement on an incrementally kept board against a reading of the raw objects that is too slow to be wrong."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egresslab.cluster.controllers import scheduling
from egresslab.cluster.controllers.board import Board
from egresslab.cluster.controllers.facts import node_facts, pod_facts
from egresslab.cluster.controllers.scheduling import place

Object = dict[str, Any]

ZONES = ("a", "b")
APPS = ("web", "db")
NAMESPACES = {"one": {"team": "red"}, "two": {"team": "blue"}}


def make_node(name: str, rng: random.Random) -> Object:
    labels = {"kubernetes.io/hostname": name}
    if rng.random() < 0.8:
        labels["zone"] = rng.choice(ZONES)
    if rng.random() < 0.5:
        labels["size"] = str(rng.randint(1, 9))
    taints = []
    if rng.random() < 0.3:
        taints.append(
            {"key": "dedicated", "value": rng.choice(APPS), "effect": rng.choice(("NoSchedule", "NoExecute"))}
        )
    if rng.random() < 0.2:
        taints.append({"key": "soft", "effect": "PreferNoSchedule"})
    spec: Object = {"taints": taints}
    if rng.random() < 0.15:
        spec["unschedulable"] = True
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": {"cpu": rng.choice(("500m", "1", "2")), "pods": str(rng.randint(2, 6))}},
    }


def make_pod(number: int, rng: random.Random) -> Object:
    spec: Object = {"containers": [{"name": "c"}], "tolerations": []}
    container = spec["containers"][0]
    if rng.random() < 0.3:
        container["resources"] = {"requests": {"cpu": rng.choice(("100m", "400m", "1"))}}
    if rng.random() < 0.25:
        port = {"containerPort": 80, "hostPort": rng.choice((80, 443))}
        container["ports"] = [port | ({"hostIP": "10.0.0.1"} if rng.random() < 0.3 else {})]
    if rng.random() < 0.3:
        operator = rng.choice(("Exists", "Equal"))
        toleration = {"key": "dedicated", "operator": operator}
        spec["tolerations"].append(toleration | ({"value": rng.choice(APPS)} if operator == "Equal" else {}))
    if rng.random() < 0.1:
        spec["tolerations"].append({"operator": "Exists"})
    if rng.random() < 0.2:
        spec["nodeSelector"] = {"zone": rng.choice(ZONES)}
    affinity: Object = {}
    if rng.random() < 0.2:
        expression = rng.choice(
            (
                {"key": "size", "operator": "Gt", "values": ["4"]},
                {"key": "size", "operator": "Lt", "values": ["5"]},
                {"key": "zone", "operator": "NotIn", "values": ["a"]},
                {"key": "size", "operator": "DoesNotExist"},
                {"key": "zone", "operator": "Exists"},
            )
        )
        affinity["nodeAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [expression]}]
            }
        }
    for kind, chance in (("podAffinity", 0.25), ("podAntiAffinity", 0.3)):
        if rng.random() < chance:
            term: Object = {
                "labelSelector": {"matchLabels": {"app": rng.choice(APPS)}},
                "topologyKey": rng.choice(("zone", "kubernetes.io/hostname")),
            }
            if rng.random() < 0.3:
                term["namespaceSelector"] = rng.choice(({}, {"matchLabels": {"team": "red"}}))
            elif rng.random() < 0.3:
                term["namespaces"] = ["two"]
            affinity[kind] = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    if affinity:
        spec["affinity"] = affinity
    return {
        "metadata": {
            "name": f"pod-{number}",
            "uid": f"uid-{number}",
            "namespace": rng.choice(list(NAMESPACES)),
            "labels": {"app": rng.choice(APPS)},
        },
        "spec": spec,
    }


class PlainReading:
    """All nodes and bound pods as objects; every question is answered by looking at all of them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Object] = {}
        self.pods: dict[str, Object] = {}

    def refusals(self, pod: Object) -> dict[str, str]:
        """Why each node cannot take the pod; nodes that can are missing."""
        found = {name: self.refusal(pod, node) for name, node in self.nodes.items()}
        return {name: reason for name, reason in found.items() if reason}

    def refusal(self, pod: Object, node: Object) -> str | None:
        here = [other for other in self.pods.values() if other["spec"]["nodeName"] == node["metadata"]["name"]]
        if node["spec"].get("unschedulable") and not tolerates_cordon(pod):
            return scheduling.CORDONED
        for taint in node["spec"]["taints"]:
            if taint["effect"] != "PreferNoSchedule" and not any(
                tolerates(item, taint) for item in pod["spec"]["tolerations"]
            ):
                return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
        if not self.selects_node(pod, node):
            return scheduling.NODE_MISMATCH
        for mine in host_ports(pod):
            for other in here:
                for theirs in host_ports(other):
                    if mine[1] == theirs[1] and (mine[0] == theirs[0] or "0.0.0.0" in (mine[0], theirs[0])):
                        return scheduling.NO_FREE_PORTS
        allocatable = node["status"]["allocatable"]
        if len(here) >= int(allocatable["pods"]):
            return scheduling.TOO_MANY_PODS
        if millicores(pod) and millicores(pod) + sum(map(millicores, here)) > to_milli(allocatable["cpu"]):
            return "Insufficient cpu"
        return self.pod_rules(pod, node)

    def selects_node(self, pod: Object, node: Object) -> bool:
        labels = node["metadata"]["labels"]
        for key, value in pod["spec"].get("nodeSelector", {}).items():
            if labels.get(key) != value:
                return False
        required = (
            pod["spec"]
            .get("affinity", {})
            .get("nodeAffinity", {})
            .get("requiredDuringSchedulingIgnoredDuringExecution", {})
        )
        for term in required.get("nodeSelectorTerms", []):
            [expression] = term["matchExpressions"]
            value, operator = labels.get(expression["key"]), expression["operator"]
            if operator == "Exists":
                return value is not None
            if operator == "DoesNotExist":
                return value is None
            if operator == "NotIn":
                return value not in expression["values"]
            if value is None:
                return False
            bound = int(expression["values"][0])
            return int(value) > bound if operator == "Gt" else int(value) < bound
        return True

    def pod_rules(self, pod: Object, node: Object) -> str | None:
        for term in terms(pod, "podAffinity"):
            matching = [other for other in self.pods.values() if term_selects(term, pod, other)]
            placed = [other for other in matching if self.domain(other, term) is not None]
            domain = node["metadata"]["labels"].get(term["topologyKey"])
            if domain is None:
                return scheduling.AFFINITY_MISMATCH
            alone = not placed and term_selects(term, pod, pod)
            if not alone and all(self.domain(other, term) != domain for other in matching):
                return scheduling.AFFINITY_MISMATCH
        for term in terms(pod, "podAntiAffinity"):
            domain = node["metadata"]["labels"].get(term["topologyKey"])
            for other in self.pods.values():
                if domain is not None and term_selects(term, pod, other) and self.domain(other, term) == domain:
                    return scheduling.ANTI_AFFINITY_MISMATCH
        for other in self.pods.values():
            for term in terms(other, "podAntiAffinity"):
                domain = self.domain(other, term)
                near = domain is not None and node["metadata"]["labels"].get(term["topologyKey"]) == domain
                if near and term_selects(term, other, pod):
                    return scheduling.EXISTING_ANTI_AFFINITY
        return None

    def domain(self, pod: Object, term: Object) -> str | None:
        node = self.nodes.get(pod["spec"]["nodeName"])
        return node["metadata"]["labels"].get(term["topologyKey"]) if node else None


def terms(pod: Object, kind: str) -> list[Object]:
    wanted = pod["spec"].get("affinity", {}).get(kind, {})
    return list(wanted.get("requiredDuringSchedulingIgnoredDuringExecution", []))


def term_selects(term: Object, owner: Object, other: Object) -> bool:
    namespace = other["metadata"]["namespace"]
    if "namespaceSelector" in term:
        wanted = term["namespaceSelector"].get("matchLabels", {})
        in_scope = all(NAMESPACES[namespace].get(key) == value for key, value in wanted.items())
    else:
        in_scope = namespace in term.get("namespaces", [owner["metadata"]["namespace"]])
    return in_scope and other["metadata"]["labels"]["app"] == term["labelSelector"]["matchLabels"]["app"]


def tolerates(toleration: Object, taint: Object) -> bool:
    if "key" not in toleration:
        return True
    if toleration["key"] != taint["key"]:
        return False
    return toleration["operator"] == "Exists" or toleration["value"] == taint.get("value", "")


def tolerates_cordon(pod: Object) -> bool:
    return any("key" not in item for item in pod["spec"]["tolerations"])


def host_ports(pod: Object) -> list[tuple[str, int]]:
    ports = pod["spec"]["containers"][0].get("ports", [])
    return [(port.get("hostIP", "0.0.0.0"), port["hostPort"]) for port in ports]


def to_milli(text: str) -> int:
    return int(text[:-1]) if text.endswith("m") else 1000 * int(text)


def millicores(pod: Object) -> int:
    requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
    return to_milli(requests["cpu"]) if requests else 0


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 60))
def test_filters_agree_with_a_plain_reading_over_random_histories(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    board, plain = Board(), PlainReading()
    for name, labels in NAMESPACES.items():
        board.set_namespace(name, labels)
    for number in range(steps):
        choice = rng.random()
        if choice < 0.25 or not plain.nodes:
            node = make_node(f"node-{rng.randint(0, 4)}", rng)
            plain.nodes[node["metadata"]["name"]] = node
            board.set_node(node_facts(node))
        elif choice < 0.32:
            name = rng.choice(list(plain.nodes))
            del plain.nodes[name]
            board.remove_node(name)
        elif choice < 0.45 and plain.pods:
            uid = rng.choice(list(plain.pods))
            if rng.random() < 0.5:
                del plain.pods[uid]
                board.remove_pod(uid)
            else:
                plain.pods[uid]["metadata"]["labels"] = {"app": rng.choice(APPS)}
                board.set_pod(pod_facts(plain.pods[uid]))
        else:
            check_one_pod(board, plain, make_pod(number, rng))


def check_one_pod(board: Board, plain: PlainReading, pod: Object) -> None:
    """The pod goes where a plain reading allows it, or is refused for the same reasons; then it is bound there."""
    placement = place(pod_facts(pod), board)
    refusals = plain.refusals(pod)
    if placement.node is None:
        assert sorted(item.reason for item in placement.refusals) == sorted(refusals.values())
        assert set(refusals) == set(plain.nodes)
    else:
        assert placement.node in plain.nodes
        assert placement.node not in refusals
        pod["spec"]["nodeName"] = placement.node
        plain.pods[pod["metadata"]["uid"]] = pod
        board.set_pod(pod_facts(pod))
    rebuilt = Board()
    for name, labels in NAMESPACES.items():
        rebuilt.set_namespace(name, labels)
    for other in reversed(list(plain.pods.values())):
        rebuilt.set_pod(pod_facts(other))
    for node in plain.nodes.values():
        rebuilt.set_node(node_facts(node))
    probe = make_pod(10_000, random.Random(len(plain.pods)))
    assert place(pod_facts(probe), rebuilt) == place(pod_facts(probe), board)


def bare_node(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}, "spec": {}}


def bare_pod(name: str, **spec: object) -> Object:
    metadata = {"name": name, "uid": name, "namespace": "one", "labels": {"app": "web"}}
    return {"metadata": metadata, "spec": {"containers": [{"name": "c"}], **spec}}


def board_of(*nodes: Object) -> Board:
    board = Board()
    for node in nodes:
        board.set_node(node_facts(node))
    return board


def test_a_pod_that_fits_nowhere_is_told_why_in_the_words_of_kubernetes() -> None:
    tainted = bare_node("n0")
    tainted["spec"]["taints"] = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
    board = board_of(tainted, bare_node("n1"), bare_node("n2"), bare_node("n3"))
    placement = place(pod_facts(bare_pod("p", nodeSelector={"disk": "ssd"})), board)
    assert placement.node is None
    assert placement.message == (
        "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
        "3 node(s) didn't match Pod's node affinity/selector. "
        "preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
    )
    assert place(pod_facts(bare_pod("p")), Board()).message == "no nodes available to schedule pods"


def test_pods_of_one_owner_are_spread_and_ties_go_to_the_first_name() -> None:
    board = board_of(bare_node("n3"), bare_node("n1"), bare_node("n2"))
    chosen = []
    for number in range(6):
        pod = bare_pod(f"p{number}")
        pod["metadata"]["ownerReferences"] = [{"uid": "rs", "controller": True}]
        placement = place(pod_facts(pod), board)
        chosen.append(placement.node)
        pod["spec"]["nodeName"] = placement.node
        board.set_pod(pod_facts(pod))
    assert chosen == ["n1", "n2", "n3", "n1", "n2", "n3"]


@pytest.mark.parametrize(
    ("affinity", "expected"),
    [
        (
            {
                "nodeAffinity": {
                    "weight": 10,
                    "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]},
                }
            },
            "n2",
        ),
        ({"podAffinity": {"weight": 10}}, "n3"),
        ({"podAntiAffinity": {"weight": 10}}, "n1"),
    ],
)
def test_preferences_decide_between_nodes_that_fit(affinity: Object, expected: str) -> None:
    board = board_of(*(bare_node(name) for name in ("n1", "n2", "n3")))
    board.set_pod(pod_facts(bare_pod("there", nodeName="n3")))
    [(kind, preference)] = affinity.items()
    if "preference" not in preference:
        selector = {"matchLabels": {"app": "web"}}
        term = {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}
        preference = {**preference, "podAffinityTerm": term}
    pod = bare_pod("p", affinity={kind: {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}})
    assert place(pod_facts(pod), board).node == expected
