"""Drills wait for the agent that they have killed; one whose restart is delayed is replaced, once."""

from __future__ import annotations

import functools
from typing import cast

import pytest

from egresslab.api.resources import Object, Resource
from egresslab.errors import LabError
from egresslab.lab import waits
from egresslab.lab.client import Client
from egresslab.lab.drills import breakages

NODE = "gw"


def agent(
    name: str, *, restarts: int = 0, waiting: str | None = None, ready: bool = True, going: bool = False
) -> Object:
    """An agent's pod: its first container as told, the voter beside it as it was."""
    state = {"waiting": {"reason": waiting}} if waiting else {"running": {}}
    return {
        "metadata": {"name": name, "uid": name, **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {})},
        "spec": {"containers": [{"name": "agent"}, {"name": "voter"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [
                {"restartCount": restarts, "state": state},
                {"restartCount": 0, "state": {"running": {}}},
            ],
        },
    }


class FakeClient:
    """Tells of one moment after the other, as its clock is slept on; what is deleted goes only as the moments say."""

    patience = 1.0

    def __init__(self, *moments: list[Object]) -> None:
        self.moments = list(moments)
        self.deleted: list[str] = []
        self.time = 0.0

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        if len(self.moments) > 1:
            self.moments.pop(0)

    def list(self, _resource: Resource, _namespace: str | None = None, **selectors: str) -> list[Object]:
        assert selectors["fieldSelector"] == f"spec.nodeName={NODE}"
        return self.moments[0]

    def find(self, _resource: Resource, name: str, _namespace: str | None = None) -> Object | None:
        return next((body for body in self.moments[0] if body["metadata"]["name"] == name), None)

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        body = self.find(resource, name, namespace)
        assert body is not None
        return body

    def delete(self, _resource: Resource, name: str, _namespace: str | None = None) -> bool:
        self.deleted.append(name)
        return True


def settle(monkeypatch: pytest.MonkeyPatch, client: FakeClient) -> None:
    """Look at the agent in the first moment, and wait for it from the second on."""
    patient = functools.partial(waits.wait_for, now=lambda: client.time, sleep=client.sleep)
    monkeypatch.setattr(waits, "wait_for", patient)
    wait = breakages.agent_back(cast(Client, client), NODE, containers=1)
    client.sleep(0)
    wait()


def test_an_agent_whose_restart_is_delayed_is_deleted_once_and_its_successor_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = FakeClient(
        [agent("a")],
        [agent("a", waiting="CrashLoopBackOff", ready=False)],
        [agent("a", waiting="CrashLoopBackOff", ready=False, going=True)],
        [agent("a", restarts=1, going=True)],  # started again after all, and nevertheless on its way out
        [agent("a", restarts=1, going=True), agent("b", waiting="ContainerCreating", ready=False)],
        [agent("b", waiting="ContainerCreating", ready=False)],
        [agent("b", ready=False)],
        last := [agent("b")],
    )
    settle(monkeypatch, client)
    assert client.deleted == ["a"]
    assert client.moments == [last]


def test_one_that_is_started_again_in_time_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient(
        [agent("a", restarts=2)],
        [agent("a", restarts=2)],  # the kubelet has not noticed yet
        [agent("a", restarts=2, ready=False)],
        [agent("a", restarts=3, ready=False)],
        last := [agent("a", restarts=3)],
    )
    settle(monkeypatch, client)
    assert not client.deleted
    assert client.moments == [last]


def test_a_pod_that_goes_is_no_agent_to_be_disturbed() -> None:
    client = FakeClient([agent("a", going=True), agent("b")])
    assert breakages.agent_pod(cast(Client, client), NODE) == "b"


def test_a_successor_that_never_gets_ready_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient([agent("a")], [agent("b", ready=False)])
    with pytest.raises(LabError, match=f"for the agent on {NODE} to be back; last seen: .*no agent is ready"):
        settle(monkeypatch, client)
