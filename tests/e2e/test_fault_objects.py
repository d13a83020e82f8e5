"""A Fault object breaks the lab while it is there, and what it broke is mended whatever happens meanwhile.

Deleting one waits until that is done.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.lab.waits import wait_for

NODE = "lab-worker3"
PATIENCE_S = 40


class Faults:
    """kubectl on Fault objects of the lab."""

    def __init__(self, environment: NetnsEnvironment) -> None:
        self.environment = environment
        client = kubernetes.config.new_client_from_config(str(environment.kubeconfig()))
        self.api = kubernetes.client.CustomObjectsApi(client)
        self.core = kubernetes.client.CoreV1Api(client)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        program = Path(sys.executable).with_name("kubectl")
        done = subprocess.run(
            [str(program), "--kubeconfig", str(self.environment.kubeconfig()), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=45,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, name: str, **spec: Any) -> None:
        body = {"apiVersion": "egresslab.dev/v1alpha1", "kind": "Fault", "metadata": {"name": name}, "spec": spec}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def delete(self, *names: str) -> None:
        self.kubectl("delete", "faults", *(names or ("--all",)))

    def status(self, name: str) -> dict[str, Any]:
        found = self.api.get_cluster_custom_object("egresslab.dev", "v1alpha1", "faults", name)
        return dict(found.get("status", {}))

    def wait(self, name: str, phase: str) -> dict[str, Any]:
        wait_for(f"{name} {phase}", lambda: self.status(name).get("phase") == phase, timeout_s=PATIENCE_S)
        return self.status(name)

    def wait_ready(self, node: str, *, ready: bool = True) -> None:
        self.kubectl("wait", "--for", f"condition=Ready={ready}", f"node/{node}", "--timeout=40s")


@pytest.fixture
def faults(environment: NetnsEnvironment) -> Iterator[Faults]:
    found = Faults(environment)
    yield found
    found.delete()
    assert environment.faults() == ()
    found.wait_ready(NODE)


def test_a_cut_lasts_as_long_as_its_object_and_no_other_fault_is_mended_with_it(
    environment: NetnsEnvironment, faults: Faults
) -> None:
    cut = Fault(FaultKind.CUT, NODE, "public")
    faults.apply("one", type="Cut", target=NODE, network="public")
    faults.apply("two", type="Cut", target=NODE, network="public")
    faults.wait("one", "Active")
    faults.wait("two", "Active")
    assert environment.faults() == (cut,)
    assert "one" in faults.kubectl("get", "faults") and "Active" in faults.kubectl("get", "faults")
    environment.break_(Fault(FaultKind.CUT, NODE, "cluster"))
    try:
        faults.delete("one")
        assert cut in environment.faults()
        faults.delete("two")
        assert environment.faults() == (Fault(FaultKind.CUT, NODE, "cluster"),)
    finally:
        environment.heal(NODE)


def test_power_comes_back_by_itself(environment: NetnsEnvironment, faults: Faults) -> None:
    faults.apply("power", type="Power", target=NODE, durationSeconds=1)
    faults.wait("power", "Active")
    assert environment.faults() == (Fault(FaultKind.CRASH, NODE),)
    assert faults.wait("power", "Healed")["message"] == "its time is over"
    assert environment.faults() == ()


def test_an_agent_is_killed_once(faults: Faults) -> None:
    def restarts() -> int:
        label = "app.kubernetes.io/name=egresslab-agent"
        pods = faults.core.list_namespaced_pod("kube-system", label_selector=label).items
        (pod,) = [pod for pod in pods if pod.spec.node_name == NODE]
        return sum(container.restart_count for container in pod.status.container_statuses or ())

    before = restarts()
    faults.apply("agent", type="AgentKill", target=NODE)
    faults.wait("agent", "Healed")
    wait_for("a restart", lambda: restarts() > before, timeout_s=PATIENCE_S)


def test_what_was_broken_is_mended_by_the_next_keeper(environment: NetnsEnvironment, faults: Faults) -> None:
    faults.apply("cut", type="Partition", target=NODE)
    faults.wait("cut", "Active")
    environment.break_(Fault(FaultKind.STOP, "faults"))
    faults.kubectl("delete", "faults", "cut", "--wait=false")
    assert Fault(FaultKind.CUT, NODE) in environment.faults()
    environment.heal("faults")
    wait_for("nothing broken", lambda: not environment.faults(), timeout_s=PATIENCE_S)


def test_what_cannot_be_done_is_said(environment: NetnsEnvironment, faults: Faults) -> None:
    wrong = {
        "nowhere": {"type": "Cut", "target": "nowhere"},
        "no such network": {"type": "Cut", "target": NODE, "network": "none"},
        "durationSeconds": {"type": "Crash", "target": "lab-control-plane"},
        "no such process": {"type": "Kill", "target": "nobody"},
    }
    for number, spec in enumerate(wrong.values()):
        faults.apply(f"wrong-{number}", **spec)
    for number, said in enumerate(wrong):
        assert said in faults.wait(f"wrong-{number}", "Failed")["message"]
    assert environment.faults() == ()


def test_mended_by_hand_is_mended(environment: NetnsEnvironment, faults: Faults) -> None:
    faults.apply("cut", type="Cut", target=NODE, network="public")
    faults.wait("cut", "Active")
    environment.heal(NODE)
    assert faults.wait("cut", "Healed")["message"] == "mended by hand"
