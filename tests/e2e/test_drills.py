"""Drills on a real lab: what they break is healed, also when somebody interrupts."""

from __future__ import annotations

from typing import Any

import pytest

from egresslab.api.resources import CILIUM_POLICIES, NAMESPACES, NODES
from egresslab.environments.base import Silent
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.lab import Lab
from egresslab.lab.client import Client
from egresslab.lab.drills.breakages import Mode
from egresslab.lab.drills.drill import Drill, Plan
from egresslab.lab.drills.scene import LABEL, Addressing
from egresslab.lab.drills.sender import Pattern
from egresslab.lab.drills.strikes import Strikes
from tests.e2e.test_failover import recovered

QUICK = {"addressing": "cilium", "connections": 10, "before_s": 0.3, "after_s": 1.0}


def test_an_agent_may_die_under_traffic(lab: Lab) -> None:
    result = lab.drill("failover", mode="agent-kill", **QUICK)
    assert recovered(result), str(result)
    assert result.measured.connections.kept == 10
    assert [str(seen.address) for seen in result.measured.sources] == ["172.18.18.11"]
    assert result.measured.strangers == {}


def test_what_was_broken_is_healed_after_an_interrupt(
    environment: NetnsEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody presses Ctrl-C as soon as something is broken."""
    strike = Strikes.strike

    def interrupted(self: Strikes, *arguments: Any) -> None:
        strike(self, *arguments)
        assert environment.faults()
        raise KeyboardInterrupt

    monkeypatch.setattr(Strikes, "strike", interrupted)
    client = Client(environment.kubeconfig())
    plan = Plan(mode=Mode.LINK_CUT, addressing=Addressing.CILIUM, pattern=Pattern(connections=2), before_s=0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            Drill(client, None, plan, Silent()).run()
        assert environment.faults() == ()
        assert not [body for body in client.list(NAMESPACES) if body["metadata"]["name"].startswith("drill-")]
        assert not [body for body in client.list(CILIUM_POLICIES) if body["metadata"]["name"].startswith("drill-")]
        assert not [body for body in client.list(NODES) if LABEL in body["metadata"]["labels"]]
    finally:
        client.close()
