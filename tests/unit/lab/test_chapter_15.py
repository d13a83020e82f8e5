"""The exam: every fault breaks what it is put into, and the same seed sets the same exam."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from egresslab.errors import LabError
from egresslab.lab import exam
from egresslab.lab.checks import chapter_15 as checks
from egresslab.lab.checks.model import Outcome
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Upsert
from egresslab.policy.objects import from_kubernetes
from tests.unit.lab.conftest import FakeBench

WEB = "http://203.0.113.10/"


def node(name: str, digit: int) -> dict[str, Any]:
    labels = {exam.GATEWAY_LABEL: name} if name in exam.GATEWAYS else {}
    interfaces = (
        f'{{"eth0": {{"addresses": ["192.168.60.{digit}/24"]}}, "eth1": {{"addresses": ["172.18.18.{digit}/24"]}}}}'
    )
    metadata = {"name": name, "labels": labels, "annotations": {"egresslab.dev/interfaces": interfaces}}
    addresses = [{"type": "InternalIP", "address": f"192.168.60.{digit}"}]
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}, "status": {"addresses": addresses}}


def source(policy: dict[str, Any], app: str) -> str | None:
    """As whom the application leaves towards the server, by the engine's word; None when not through a gateway."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": app, "namespace": "demo", "uid": app, "labels": {"app": app}},
        "spec": {"nodeName": "lab-worker"},
        "status": {"podIPs": [{"ip": "10.244.1.5"}]},
    }
    nodes = [node("lab-worker", 11), node("lab-worker2", 12), node("lab-worker3", 14)]
    engine = Engine()
    for obj in (*nodes, pod, policy):
        value = from_kubernetes(obj)
        assert value is not None
        engine.apply(Upsert(value))
    rows = [entry for entry in engine.entries() if WEB.split("/")[2] in map(str, entry.destination.hosts())]
    best = max(rows, key=lambda entry: entry.destination.prefixlen, default=None)
    if best is None or best.excluded:
        return None
    return str(engine.slots()[best.slot].source_v4)


@pytest.mark.parametrize("app", exam.APPS)
def test_in_order_every_application_leaves_as_its_gateway(app: str) -> None:
    assert source(exam.policy(app, "demo"), app) == exam.GATEWAYS[exam.APPS[app][0]]


@pytest.mark.parametrize("fault", exam.FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("app", exam.APPS)
def test_every_fault_spoils_every_application_that_it_fits(app: str, fault: exam.Fault) -> None:
    if fault.fits not in ("", exam.APPS[app][1]):
        pytest.skip("the fault is about the other way to name an address")
    body = copy.deepcopy(exam.policy(app, "demo"))
    fault.change(body["spec"])
    assert source(body, app) != exam.GATEWAYS[exam.APPS[app][0]]


def test_a_seed_is_an_exam() -> None:
    assert exam.draw(7, 3) == exam.draw(7, 3)
    assert (
        len({tuple(sorted((app, fault.name) for app, fault in exam.draw(seed, 3).items())) for seed in range(20)}) > 10
    )
    with pytest.raises(LabError, match="from 1 to 4"):
        exam.draw(1, 5)


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [("172.18.18.12", Outcome.PASS), ("172.18.18.14", Outcome.FAIL), (None, Outcome.FAIL)],
)
def test_grades_come_from_answers(bench: FakeBench, seen: str | None, outcome: Outcome) -> None:
    bench.sources["client-1"] = seen
    assert checks.graded(bench, {"client-1": "172.18.18.12"}, WEB).outcome is outcome


def test_a_stranger_on_the_wire_is_found(bench: FakeBench) -> None:
    def capture(**sources: int) -> Any:
        return SimpleNamespace(sources=sources, typed="tcpdump")

    good = capture(**{"172.18.18.12": 3, "172.18.18.14": 2})
    assert checks.only_these(bench, good, ["172.18.18.12", "172.18.18.14"]).outcome is Outcome.PASS
    bad = capture(**{"172.18.18.12": 3, "192.168.60.11": 1})
    assert checks.only_these(bench, bad, ["172.18.18.12"]).outcome is Outcome.FAIL
    assert checks.only_these(bench, capture(), ["172.18.18.12"]).outcome is Outcome.NOT_ATTEMPTED
