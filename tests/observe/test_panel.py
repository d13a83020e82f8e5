"""The notebook's panel: it tells when it listens, shows what comes, waits for a flow, and leaves no process behind."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from egresslab.errors import LabError
from egresslab.flows.flow import Lost, Told, as_json
from egresslab.lab import terminal
from egresslab.lab.observe import FlowPanel, Flows, condition, typed
from tests.observe.test_choosing import DROPPED, FLOW


@pytest.fixture
def panel_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FlowPanel]:
    """A panel whose `egresslab` is a script that tells these things, one after another, and then does `ending`."""

    def make(*told: Told, ending: str = "exec sleep 30") -> FlowPanel:
        lines = "".join(f"echo {shlex.quote(json.dumps(as_json(each)))}\n" for each in told)
        script = tmp_path / "egresslab"
        script.write_text(f"#!/bin/sh\necho\n{lines}{ending}\n")
        script.chmod(0o755)
        monkeypatch.setattr(terminal, "egresslab_path", lambda: str(script))
        return FlowPanel("/nowhere", typed(condition("team", "web")), seconds=60)

    return make


def test_it_waits_for_a_flow_and_shows_what_came(panel_of: Callable[..., FlowPanel]) -> None:
    panel = panel_of(FLOW, Lost(FLOW.time_ns, "lab-worker", 3), DROPPED)
    panel.show()
    try:
        assert panel.wait_for(lambda flow: flow.reason == "NO_GATEWAY") == DROPPED
        assert panel.wait_for(lambda flow: flow.pod.startswith("web")) == FLOW, "also one that was there before"
        table = panel.table()
        assert table.caption == "egresslab observe --pod web --namespace team --follow (1 forwarded, 1 dropped, 3 lost)"
        assert [row[-1] for row in table] == ["OPENED", "", "NO_GATEWAY"]
        with pytest.raises(LabError, match=r"waited 0\.05 s for such a flow in vain"):
            panel.wait_for(lambda flow: flow.pod == "nobody", timeout_s=0.05)
    finally:
        panel.stop()
    panel.stop()
    assert panel.table().caption.endswith("stopped)")


def test_it_keeps_what_it_showed_when_the_observer_ends(panel_of: Callable[..., FlowPanel]) -> None:
    panel = panel_of(FLOW, ending="exit 1")
    with pytest.raises(LabError, match="in vain"):
        panel.wait_for(lambda flow: flow.pod == "nobody", timeout_s=5)
    assert panel.flows.flows == (FLOW,)


def test_no_process_is_left(panel_of: Callable[..., FlowPanel]) -> None:
    panel = panel_of()
    panel.show()
    pid = panel._process.pid
    panel.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_command_is_what_a_person_would_type() -> None:
    wanted = condition("team", "web", to_fqdn="*.me", verdict="dropped")
    assert typed(wanted, last=3) == [
        *("observe", "--pod", "web", "--namespace", "team", "--to-fqdn", "*.me", "--verdict", "dropped", "--last", "3")
    ]
    assert typed(condition("team", "other/web")) == ["observe", "--pod", "other/web"]
    assert typed(condition("")) == ["observe"]


def test_rows_and_gaps_as_text() -> None:
    flows = Flows.of([replace(FLOW, names=()), Lost(0, "lab-worker", 3)], "egresslab observe")
    assert (flows.lost, len(flows.flows)) == (3, 1)
    assert "EVENTS LOST: lab-worker: 3" in str(flows) and "172.18.18.12:40000" in str(flows)
