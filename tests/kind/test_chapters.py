"""A lab on a real cluster of Kind: it comes up, is used again, its chapters pass, and nothing of it stays.

Left out of `make test`; `make test-kind` runs it. Without a registry, environments/kind/airgap builds what
it needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from egresslab.api.resources import FAULTS, NODES
from egresslab.environments.base import Fault, FaultKind, Phase, Silent
from egresslab.environments.kind.commands import Commands
from egresslab.environments.kind.environment import IMAGE, KindEnvironment
from egresslab.environments.kind.plan import LABEL, Datapath
from egresslab.environments.kind.preflight import examine
from egresslab.environments.kind.versions import pinned
from egresslab.environments.netns.doctor import Verdict
from egresslab.errors import EnvironmentFailure
from egresslab.lab import nodes, waits
from egresslab.lab.client import Client

pytestmark = pytest.mark.kind
LAB = "test-kind"
CHAPTERS = ("01", "02", "04", "06", "07", "08", "09")
COMMANDS = Commands()
NODE, CONTAINER = "lab-worker3", f"egresslab-{LAB}-worker3"
PATIENCE_S = 180.0


def why_not() -> str:
    """What is missing, or nothing."""
    node_image = os.environ.get("EGRESSLAB_KIND_NODE_IMAGE") or pinned()["NODE_IMAGE"]
    found = examine(COMMANDS, Datapath.EGRESSLAB, node_image=node_image, image=IMAGE, chart="")
    missing = [f"{finding.name}: {finding.found}" for finding in found if finding.verdict is Verdict.MISSING]
    if not missing and COMMANDS.inspect("image", node_image) is None:
        try:
            COMMANDS.docker("pull", "--quiet", node_image, timeout_s=600)
        except EnvironmentFailure as error:
            missing.append(f"node image: {error.message} (environments/kind/airgap builds one)")
    return "; ".join(missing)


@pytest.fixture(scope="module")
def lab() -> Iterator[KindEnvironment]:
    """The lab, taken down at the end."""
    if reason := why_not():
        pytest.skip(reason)
    environment = KindEnvironment(LAB)
    try:
        environment.create(Silent())
        yield environment
    finally:
        environment.delete(Silent())
        mine = ("--filter", f"label={LABEL}={LAB}", "--quiet")
        assert COMMANDS.docker("ps", "--all", *mine) == COMMANDS.docker("network", "ls", *mine) == ""
        assert "egresslab-test-kind" not in COMMANDS.run("kind", "get", "clusters")


def test_it_is_up_and_a_second_run_changes_nothing(lab: KindEnvironment) -> None:
    assert lab.status().phase is Phase.RUNNING
    assert not lab.create(Silent()).changed


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_passes(lab: KindEnvironment, chapter: str, tmp_path: Path) -> None:
    limits = ("--cell-timeout", "300", "--wait-timeout", "240", "--chapter-timeout", "900")
    where = ("--environment", "kind", "--lab", LAB, "--out", str(tmp_path))
    words = [sys.executable, "-m", "egresslab.cli.main", "labs", "run", chapter, *where, *limits]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def client(lab: KindEnvironment) -> Iterator[Client]:
    """As administrator."""
    with closing(Client(lab.kubeconfig())) as found:
        yield found


def has_carrier(interface: str) -> bool:
    return COMMANDS.docker("exec", CONTAINER, "cat", f"/sys/class/net/{interface}/carrier") == "1"


def state() -> str:
    return str(COMMANDS.docker("container", "inspect", "--format", "{{.State.Status}}", CONTAINER))


def wait_ready(client: Client) -> None:
    waits.wait_for("the node to be Ready", lambda: nodes.node(client.get(NODES, NODE)).ready, timeout_s=PATIENCE_S)


def addresses(interface: str) -> set[str]:
    found = json.loads(COMMANDS.docker("exec", CONTAINER, "ip", "-json", "address", "show", interface))[0]
    return {item["local"] for item in found["addr_info"] if item["scope"] == "global"}


def test_a_cable_that_is_pulled_takes_no_address_with_it(lab: KindEnvironment) -> None:
    before = addresses("eth1")
    lab.break_(Fault(FaultKind.CUT, NODE, "public"))
    assert not has_carrier("eth1") and has_carrier("eth0") and addresses("eth1") == before != set()
    lab.heal(NODE)
    assert has_carrier("eth1") and lab.faults() == ()


def test_a_paused_node_goes_on(lab: KindEnvironment, client: Client) -> None:
    lab.break_(Fault(FaultKind.HANG, NODE))
    assert state() == "paused"
    lab.heal(NODE)
    assert state() == "running"
    wait_ready(client)


def test_a_node_that_starts_again_is_the_one_it_was(lab: KindEnvironment, client: Client) -> None:
    before = {name: addresses(name) for name in ("eth0", "eth1")}
    lab.break_(Fault(FaultKind.CRASH, NODE))
    assert state() == "exited"
    lab.heal(NODE)
    assert {name: addresses(name) for name in before} == before
    wait_ready(client)


def test_a_fault_object_is_carried_out_and_its_end_waited_for(lab: KindEnvironment, client: Client) -> None:
    body = {"apiVersion": FAULTS.api_version, "kind": "Fault", "metadata": {"name": "cut"}}
    client.apply(FAULTS, {**body, "spec": {"type": "Cut", "target": NODE, "network": "public"}})
    waits.wait_for("the carrier to go", lambda: not has_carrier("eth1"), timeout_s=PATIENCE_S)
    client.delete(FAULTS, "cut")
    waits.wait_for("the fault to be mended", lambda: client.find(FAULTS, "cut") is None, timeout_s=PATIENCE_S)
    assert has_carrier("eth1") and lab.faults() == ()
