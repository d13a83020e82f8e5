"""Plans for DaemonSets: which nodes get a pod, which pods go, and how an update moves through the nodes."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from egresslab.cluster.controllers.daemons import (
    HASH_LABEL,
    Verdict,
    pinned_template,
    plan,
    status,
    target_of,
    tolerated_template,
    verdict,
)
from egresslab.cluster.controllers.facts import NodeFacts
from egresslab.cluster.controllers.tolerations import Effect, Taint

Object = dict[str, Any]

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RUN = Verdict(True, True)


def daemon(name: str, node: str, *, revision: str = "new", ready: bool = True, bound: bool = True) -> Object:
    spec: Object = {"nodeName": node} if bound else pinned_template({"spec": {}}, node)["spec"]
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": "2029-01-01T00:00:00Z"}
    metadata = {
        "name": name,
        "uid": name,
        "creationTimestamp": "2029-01-01T00:00:00Z",
        "labels": {HASH_LABEL: revision},
    }
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", "conditions": [condition]}}


def names(pods: tuple[Object, ...]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]


def test_a_cordoned_or_unready_node_keeps_its_daemon_and_gets_one() -> None:
    template = tolerated_template({"spec": {}})
    taints = tuple(
        Taint(f"node.kubernetes.io/{key}", "", effect)
        for key, effect in (
            ("unschedulable", Effect.NO_SCHEDULE),
            ("not-ready", Effect.NO_EXECUTE),
            ("unreachable", Effect.NO_EXECUTE),
        )
    )
    assert verdict(template, NodeFacts("n", {}, taints, unschedulable=True)) == RUN


def test_a_taint_keeps_new_daemons_out_and_only_no_execute_drives_running_ones_away() -> None:
    template = tolerated_template({"spec": {}})
    assert verdict(template, NodeFacts("n", {}, (Taint("k", "v", Effect.NO_SCHEDULE),))) == Verdict(False, True)
    assert verdict(template, NodeFacts("n", {}, (Taint("k", "v", Effect.NO_EXECUTE),))) == Verdict(False, False)
    selective = tolerated_template({"spec": {"nodeSelector": {"disk": "ssd"}}})
    assert verdict(selective, NodeFacts("n", {"disk": "hdd"})) == Verdict(False, False)


def test_each_node_gets_one_daemon_and_loses_its_surplus() -> None:
    pods = [daemon("b1", "b"), daemon("b2", "b"), daemon("waiting", "b", bound=False), daemon("gone", "x", bound=False)]
    todo = plan({}, {"a": RUN, "b": RUN}, pods, "new", NOW)
    assert todo.create == ("a",)
    assert names(todo.delete) == ["b2", "waiting", "gone"]


def test_a_terminating_daemon_holds_its_node_until_it_is_gone() -> None:
    pod = daemon("old", "a")
    pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert plan({}, {"a": RUN}, [pod], "new", NOW).create == ()


def test_a_daemon_that_failed_at_once_is_replaced_after_a_pause() -> None:
    pod = daemon("failed", "a")
    pod["status"]["phase"] = "Failed"
    pod["metadata"]["creationTimestamp"] = "2029-12-31T23:59:58Z"
    todo = plan({}, {"a": RUN}, [pod], "new", NOW)
    assert (todo.create, todo.delete, todo.wait_s) == ((), (), 3.0)
    pod["metadata"]["creationTimestamp"] = "2029-12-31T23:59:50Z"
    assert names(plan({}, {"a": RUN}, [pod], "new", NOW).delete) == ["failed"]


def test_an_update_replaces_useless_pods_at_once_and_working_ones_within_the_budget() -> None:
    pods = [daemon("a0", "a", revision="old"), daemon("b0", "b", revision="old"), daemon("c0", "c", revision="old")]
    verdicts = dict.fromkeys("abc", RUN)
    assert names(plan({}, verdicts, pods, "new", NOW).delete) == ["a0"]
    pods[2]["status"]["conditions"][0]["status"] = "False"
    assert names(plan({}, verdicts, pods, "new", NOW).delete) == ["c0"]
    assert plan({"updateStrategy": {"type": "OnDelete"}}, verdicts, pods, "new", NOW).delete == ()


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), budget=st.integers(1, 4))
def test_an_update_ends_with_one_new_pod_on_each_node_and_never_takes_too_many_away(seed: int, budget: int) -> None:
    rng = random.Random(seed)
    verdicts = {f"n{number}": RUN for number in range(rng.randint(1, 6))}
    pods = [daemon(f"{node}-old", node, revision="old") for node in verdicts]
    spec = {"updateStrategy": {"rollingUpdate": {"maxUnavailable": budget}}}
    for turn in range(200):
        todo = plan(spec, verdicts, pods, "new", NOW)
        gone = {pod["metadata"]["uid"] for pod in todo.delete}
        pods = [pod for pod in pods if pod["metadata"]["uid"] not in gone]
        serving = sum(pod["status"]["conditions"][0]["status"] == "True" for pod in pods)
        assert serving >= len(verdicts) - budget
        pods += [daemon(f"{node}-{turn}", node, ready=False, bound=False) for node in todo.create]
        for pod in pods:
            if rng.random() < 0.5:
                pod["spec"]["nodeName"] = target_of(pod)
                pod["status"]["conditions"][0]["status"] = "True"
    owner = {"metadata": {"generation": 3}, "spec": spec}
    counts, _ = status(owner, verdicts, pods, "new", NOW)
    total = len(verdicts)
    assert counts["updatedNumberScheduled"] == counts["numberAvailable"] == counts["desiredNumberScheduled"] == total
    assert sorted(target_of(pod) for pod in pods) == sorted(verdicts)
