"""What policies amount to for pods is remembered while their labels are known, also while none of them has an entry."""

from __future__ import annotations

from collections import Counter

from egresslab.policy.engine import Engine
from egresslab.policy.entries import Delete, Reason
from egresslab.policy.inventory import ref_of
from egresslab.policy.objects import from_kubernetes
from tests.unit.policy import build


def disputed() -> Engine:
    """Two policies claim one destination; a pod on the host's network is selected by both and has no entries."""
    told = build.engine(build.node("gw", 2), build.cilium("p"), build.cilium("q", excludedCIDRs=["203.0.113.0/24"]))
    host = build.pod("host", "192.168.60.9")
    host["spec"]["hostNetwork"] = True
    build.tell(told, host)
    return told


def delete(told: Engine, obj: build.Object) -> None:
    value = from_kubernetes(obj)
    assert value is not None
    told.apply(Delete(ref_of(value)))


def tables(told: Engine) -> list[int]:
    """How many pods share each table."""
    held = Counter(state.profile for state in told.pods.by_uid.values() if state.profile.states)
    assert {profile: profile.pods for profile in told.profiles()} == held
    return sorted(held.values())


def test_the_only_pod_with_entries_comes_and_goes_and_comes_again() -> None:
    told, pod = disputed(), build.pod("a", "10.0.0.1")
    for _ in range(3):
        build.tell(told, pod)
        assert tables(told) == [1]
        assert Reason.CONFLICT in {problem.reason for problem in told.problems()}
        delete(told, pod)
        assert not tables(told)
        assert Reason.CONFLICT not in {problem.reason for problem in told.problems()}


def test_pods_of_other_labels_share_the_table_whichever_came_again_first() -> None:
    told, pod = disputed(), build.pod("a", "10.0.0.1")
    other = build.pod("b", "10.0.0.2", labels={"app": "web", "tier": "x"})
    build.tell(told, pod)
    delete(told, pod)
    build.tell(told, other)
    build.tell(told, pod)
    assert tables(told) == [2]
    delete(told, other)
    assert tables(told) == [1]
    assert Reason.CONFLICT in {problem.reason for problem in told.problems()}


def test_pods_that_no_policy_selects_have_no_table() -> None:
    assert not tables(build.engine(build.node("gw", 2), build.cilium(), build.pod("a", "10.0.0.1", labels={})))
