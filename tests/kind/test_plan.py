"""What a lab on Kind will consist of, read by kind itself where kind is there, and carried out by a Docker that only
notes what it is asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.definitions import definitions
from egresslab.environments.kind.commands import Commands
from egresslab.environments.kind.environment import KindEnvironment
from egresslab.environments.kind.faults import Faults
from egresslab.environments.kind.plan import Datapath, Plan
from egresslab.environments.kind.preflight import examine, require
from egresslab.environments.kind.versions import numbers, pinned
from egresslab.environments.netns.doctor import Verdict
from egresslab.environments.netns.topology import load_topology
from egresslab.errors import EnvironmentFailure

KIND = os.environ.get("KIND") or shutil.which("kind")
DOCKER = """#!/bin/sh
echo "$@" >> "{log}"
case "$1 $2" in
  "info --format") echo '{{"ServerVersion": "20.10.24", "CgroupVersion": "2", "MemTotal": {memory}, "Name": "x",
    "MemoryLimit": true, "PidsLimit": true, "CPUShares": true, "SecurityOptions": []}}' ;;
  "--version "*|"-v "*) echo "Docker version {version}, build 1" ;;
  "network ls") echo egresslab-a-cluster ;;
  "network inspect") echo '[{{"Name": "x", "IPAM": {{"Config": []}}}}]' ;;
  "image inspect") echo '[{{"Id": "sha256:1"}}]' ;;
  "container inspect") [ "$3" = --format ] && echo 77 || echo '[{{"NetworkSettings": {{"Networks":
    {{"egresslab-a-cluster": {{}}, "egresslab-a-public": {{}}}}}}}}]' ;;
  "exec "*) echo systemd ;;
  "run --rm") ;;
  "run "*) exit 1 ;;
esac
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Of the lab `a`."""
    topology = load_topology(definitions("netns") / "topology.yaml")
    return Plan("a", topology, Datapath.EGRESSLAB, tmp_path, pinned()["NODE_IMAGE"])


def fake_docker(directory: Path, *, version: str = "20.10.24", memory: int = 16 << 30) -> Path:
    """A `docker` that answers a little and notes every call in `calls`."""
    directory.mkdir(exist_ok=True)
    program = directory / "docker"
    program.write_text(DOCKER.format(log=directory / "calls", version=version, memory=memory))
    program.chmod(0o755)
    return program


def calls(directory: Path) -> list[str]:
    return (directory / "calls").read_text().splitlines()


def test_nodes_are_those_of_every_lab(plan: Plan) -> None:
    config = plan.kind_config()
    patches = [yaml.safe_load(node["kubeadmConfigPatches"][0]) for node in config["nodes"]]
    names = [patch["nodeRegistration"]["name"] for patch in patches]
    assert names == ["lab-control-plane", "lab-worker", "lab-worker2", "lab-worker3"]
    assert [node["role"] for node in config["nodes"]] == ["control-plane", "worker", "worker", "worker"]
    assert list(plan.containers().values()) == [
        f"egresslab-a-{name}" for name in ("control-plane", "worker", "worker2", "worker3")
    ]


def test_everything_in_docker_bears_the_labs_name(plan: Plan) -> None:
    for words in plan.networks():
        assert words[-1].startswith("egresslab-a-") and "--label=dev.egresslab.lab=a" in words
    assert plan.outside == "egresslab-a-outside"


def test_everything_has_addresses_of_both_families(plan: Plan) -> None:
    networking = plan.kind_config()["networking"]
    assert networking["ipFamily"] == "dual"
    assert networking["podSubnet"] == "10.244.0.0/16,fd00:10:244::/48"
    assert networking["serviceSubnet"] == "10.96.0.0/16,fd00:10:96::/112"
    words = {words[-1]: words for words in plan.networks()}["egresslab-a-public"]
    assert "--ipv6" in words and {"--subnet=172.18.18.0/24", "--subnet=fd00:18::/64"} < set(words)
    assert {"--gateway=172.18.18.254", "--gateway=fd00:18::fe"} < set(words)


def test_ways_to_the_internet_outside_are_of_both_families(plan: Plan) -> None:
    assert [" ".join(words) for words in plan.node_routes("cluster")] == [
        "ip -4 route replace 203.0.113.0/24 via 192.168.60.1 dev eth0 metric 100",
        "ip -6 route replace 2001:db8:113::/64 via fd00:60::1 dev eth0 metric 100",
        "ip -6 route replace default via fd00:60::fe dev eth0 metric 100",
    ]
    assert [" ".join(words) for words in plan.node_routes("public")] == [
        "ip -4 route replace default via 172.18.18.1 dev eth1 metric 200",
        "ip -6 route replace default via fd00:18::1 dev eth1 metric 200",
    ]


def test_cilium_brings_its_own_network_and_replaces_kube_proxy(plan: Plan) -> None:
    cilium = Plan(plan.lab, plan.topology, Datapath.CILIUM, plan.state, plan.node_image).kind_config()
    assert (cilium["networking"]["ipFamily"], cilium["networking"]["podSubnet"]) == ("ipv4", "10.244.0.0/16")
    assert cilium["networking"]["disableDefaultCNI"] and cilium["networking"]["kubeProxyMode"] == "none"
    values = yaml.safe_load((definitions("kind") / "cilium-values.yaml").read_text())
    assert values["egressGateway"]["enabled"] and values["bpf"]["masquerade"] and values["kubeProxyReplacement"]


def test_nodes_get_the_addresses_that_lessons_name(plan: Plan, tmp_path: Path) -> None:
    docker = fake_docker(tmp_path / "fake")
    shim = tmp_path / "shim"
    shim.write_text(plan.docker_shim(str(docker)))
    shim.chmod(0o755)
    subprocess.run([shim, "run", "--name", "egresslab-a-worker2", "--tty", "image"], check=False)
    subprocess.run([shim, "run", "--name", "somebody-elses", "image"], check=False)
    subprocess.run([shim, "ps"], check=True)
    label = "--label dev.egresslab.lab=a"
    assert calls(tmp_path / "fake") == [
        f"run --ip 192.168.60.12 --ip6 fd00:60::12 {label} --name egresslab-a-worker2 --tty image",
        "run --name somebody-elses image",
        "ps",
    ]


@pytest.mark.skipif(KIND is None, reason="kind is not installed")
@pytest.mark.parametrize("datapath", list(Datapath))
def test_kind_reads_the_configuration_and_asks_docker_for_our_nodes(
    plan: Plan, tmp_path: Path, datapath: Datapath
) -> None:
    assert KIND is not None
    fake = tmp_path / "fake"
    fake_docker(fake)
    config = Plan(plan.lab, plan.topology, datapath, tmp_path, plan.node_image).kind_config()
    environment = {"PATH": f"{fake}:/usr/bin:/bin", "HOME": str(tmp_path)}

    def create(content: object) -> str:
        file = tmp_path / "kind.yaml"
        file.write_text(yaml.safe_dump(content))
        words = [KIND or "", "create", "cluster", "--config", str(file), "--kubeconfig", str(tmp_path / "kubeconfig")]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False).stderr

    for folder in ("outside", "namespaces"):
        (tmp_path / folder).mkdir()
    create(config)
    started = {word for line in calls(fake) if line.startswith("run ") for word in line.split()}
    # All are begun at once, and the first refusal ends it.
    assert started & set(plan.containers().values()) and pinned()["NODE_IMAGE"] in started
    assert "field netwrking not found" in create({**config, "netwrking": {}})


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    empty = Commands({"PATH": str(tmp_path)})
    found = list(examine(empty, Datapath.EGRESSLAB, node_image="n", image="i", chart="c"))
    assert {finding.name for finding in found if finding.verdict is Verdict.MISSING} == {"docker", "kind", "helm"}
    with pytest.raises(EnvironmentFailure) as caught:
        require(found)
    assert f"sigs.k8s.io/kind@{pinned()['KIND']}" in str(caught.value) and "apt-get install docker.io" in str(
        caught.value
    )


def test_an_old_docker_and_too_little_memory_are_found(tmp_path: Path) -> None:
    fake_docker(tmp_path, version="19.3.1", memory=1 << 30)
    commands = Commands({"PATH": f"{tmp_path}:/usr/bin:/bin"})
    found = {f.name: f for f in examine(commands, Datapath.EGRESSLAB, node_image="n", image="i", chart="c")}
    assert found["docker"].verdict is Verdict.MISSING and "20.10 or later" in found["docker"].found
    assert found["memory for Docker"].verdict is Verdict.MISSING


BESIDE = "run --rm --privileged --user 0:0 --userns host --pid host --network host image python -m "
CABLE = BESIDE + "egresslab.environments.kind.cable 77"


def breaker(plan: Plan, tmp_path: Path) -> Faults:
    fake_docker(tmp_path / "fake")
    return Faults(plan, Commands({"PATH": f"{tmp_path / 'fake'}:/usr/bin:/bin"}), "image")


def done(tmp_path: Path) -> list[str]:
    """What Docker was asked to change."""
    return [line for line in calls(tmp_path / "fake") if not line.startswith(("exec", "container inspect"))]


def test_faults_are_the_runtimes_and_are_undone(plan: Plan, tmp_path: Path) -> None:
    faults = breaker(plan, tmp_path)
    faults.break_(Fault(FaultKind.CRASH, "lab-worker2"))
    faults.break_(Fault(FaultKind.HANG, "lab-worker3"))
    faults.break_(Fault(FaultKind.CUT, "lab-worker", "public"))
    assert len(faults.in_force()) == 3
    with pytest.raises(EnvironmentFailure, match="in force already"):
        faults.break_(Fault(FaultKind.CRASH, "lab-worker2"))
    with pytest.raises(EnvironmentFailure, match="no node of this lab"):
        faults.break_(Fault(FaultKind.CRASH, "lab-worker9"))
    for node in ("lab-worker", "lab-worker2", "lab-worker3"):
        faults.heal(node)
    assert not faults.in_force()
    assert done(tmp_path) == [
        "kill egresslab-a-worker2",
        "pause egresslab-a-worker3",
        f"{CABLE} down eth1",
        f"{CABLE} up eth1",
        # Docker joins networks in no order when it starts a container; kind's script must find but one.
        "network disconnect egresslab-a-public egresslab-a-worker2",
        "start egresslab-a-worker2",
        "unpause egresslab-a-worker3",
    ]


def test_a_node_that_is_cut_off_twice_gets_back_only_what_no_other_fault_holds(plan: Plan, tmp_path: Path) -> None:
    faults = breaker(plan, tmp_path)
    every, one = Fault(FaultKind.CUT, "lab-worker"), Fault(FaultKind.CUT, "lab-worker", "public")
    faults.break_(every)
    faults.break_(one)
    faults.mend(every)
    assert faults.in_force() == (one,)
    faults.mend(every)
    faults.mend(one)
    assert done(tmp_path) == [f"{CABLE} {end}" for end in ("down eth0 eth1", "down eth1", "up eth0", "up eth1")]


def test_a_node_that_starts_again_stays_cut_off(plan: Plan, tmp_path: Path) -> None:
    faults = breaker(plan, tmp_path)
    crash, cut = Fault(FaultKind.CRASH, "lab-worker"), Fault(FaultKind.CUT, "lab-worker", "public")
    faults.break_(crash)
    faults.break_(cut)
    faults.mend(crash)
    node = "egresslab-a-worker"
    assert done(tmp_path) == [
        f"kill {node}",
        f"network disconnect egresslab-a-public {node}",
        f"start {node}",
        f"{CABLE} down eth1",
    ]
    assert faults.in_force() == (cut,)


def test_a_paused_node_goes_on_when_nothing_holds_it(plan: Plan, tmp_path: Path) -> None:
    faults = breaker(plan, tmp_path)
    hang, stop = Fault(FaultKind.HANG, "lab-worker"), Fault(FaultKind.STOP, "lab-worker")
    for fault in (hang, stop):
        faults.break_(fault)
    for fault in (hang, stop):
        faults.mend(fault)
    assert done(tmp_path) == ["pause egresslab-a-worker", "unpause egresslab-a-worker"]


def test_a_lab_keeps_its_datapath(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "egresslab" / "kind" / "a").mkdir(parents=True)
    (tmp_path / "egresslab" / "kind" / "a" / "datapath").write_text("cilium")
    KindEnvironment("a")
    with pytest.raises(EnvironmentFailure, match="another datapath"):
        KindEnvironment("a", datapath="egresslab")


def test_versions_are_compared_as_numbers() -> None:
    assert numbers("kind v0.33.0 go1.26 linux/amd64") > (0, 27)
    assert numbers("Docker version 20.10.24+dfsg1, build 297e128") >= (20, 10)
    assert numbers("none") == ()


def test_the_world_outside_is_that_of_every_lab(plan: Plan) -> None:
    world = json.loads(json.dumps(plan.world()))
    assert world["addresses"]["eth0"] == ["192.168.60.1/24", "fd00:60::1/64", "192.168.60.13/24", "fd00:60::13/64"]
    assert {"203.0.113.10/32", "2001:db8:113::10/128"} < set(world["addresses"]["lo"])
    assert {server["name"] for server in world["outside"]["servers"]} >= {"external", "ifconfig.me"}
