"""The command line of a machine, which nodes are machines, what the record says of them; no QEMU is needed."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.definitions import definitions, manifests
from egresslab.environments.netns import faults
from egresslab.environments.netns.fabric import plan_fabric
from egresslab.environments.netns.labrecord import LabRecord, Stage, read_lab, write_lab
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.records import boot_id
from egresslab.environments.netns.topology import Topology, load_topology
from egresslab.environments.vm import acceleration, machine
from egresslab.environments.vm.environment import STRETCH_VARIABLE, VmEnvironment, stretched
from egresslab.environments.vm.fleet import Fleet, cards, machine_names
from egresslab.environments.vm.qemu import Acceleration, Disk, Hardware, Wiring, command
from egresslab.environments.vm.recipe import PLATFORMS
from egresslab.environments.vm.store import SystemImage
from egresslab.errors import EnvironmentFailure
from egresslab.lab.attachment import Attachment

HARDWARE = Hardware(PLATFORMS["x86_64"], Acceleration.EMULATION, 512, 1)
SYSTEM = SystemImage(Path("/cache/0123"))


@pytest.fixture(scope="module")
def topology() -> Topology:
    """The default one."""
    return load_topology(definitions("netns") / "topology.yaml")


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabPaths:
    """A lab in a folder of the test's own."""
    monkeypatch.setattr("egresslab.environments.netns.paths.STATE", tmp_path)
    paths = LabPaths("vmtest")
    for folder in (paths.faults, paths.held, paths.processes, paths.node("lab-worker")):
        folder.mkdir(parents=True)
    return paths


def record(topology: Topology, lab: str = "vmtest") -> LabRecord:
    """A lab of machines that is up."""
    content = topology.model_dump(mode="json")
    return LabRecord(lab, boot_id(), Stage.RUNNING, 0.0, 6443, False, content, "vm", machine_names(topology))


def test_only_emulated_processors_ask_for_patience() -> None:
    fleets = [Fleet((), replace(HARDWARE, acceleration=one), SYSTEM, "3.11") for one in Acceleration]
    assert [fleet.patience > 1 for fleet in fleets] == [one is Acceleration.EMULATION for one in Acceleration]


def test_agents_and_operator_are_told_of_slow_processors() -> None:
    found = {}
    for factor in (1, 5):
        for workload in stretched(manifests("netns", bare=False), factor):
            for container in workload.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
                found[factor, container["name"]] = {one["name"]: one.get("value") for one in container.get("env", ())}
    assert [found[5, name].get(STRETCH_VARIABLE) for name in ("agent", "operator")] == ["5", "5"]
    assert not any(STRETCH_VARIABLE in found[1, name] for name in ("agent", "operator"))


def test_all_nodes_but_the_control_planes_are_machines(topology: Topology) -> None:
    assert machine_names(topology) == ("lab-worker", "lab-worker2", "lab-worker3")


def test_a_machine_has_a_port_in_the_fabric_and_no_namespace(topology: Topology) -> None:
    plan = plan_fabric(topology, LabPaths("x"), machine_names(topology))
    assert [one.name for one in plan.create] == [
        "egresslab-x-fabric",
        "egresslab-x-outside",
        "egresslab-x-lab-control-plane",
    ]
    assert ("lab-worker2.1", "public") in [(tap.port, tap.bridge) for tap in plan.taps]
    assert [one.port for one in cards(topology, topology.node("lab-worker2"))] == ["lab-worker2.0", "lab-worker2.1"]
    assert record(topology, "x").namespaces() == [one.name for one in plan.create]


def test_the_command_line_names_disks_cards_and_sockets(topology: Topology) -> None:
    disks = (Disk("system", Path("/d.qcow2"), "qcow2"), Disk("node", Path("/seed"), read_only=True))
    wiring = Wiring(Path("/log"), Path("/qmp"), Path("/qga"))
    words = command("m", HARDWARE, SYSTEM, disks, cards(topology, topology.node("lab-worker")), wiring)
    text = " ".join(words)
    assert words[0] == "qemu-system-x86_64" and "-accel tcg," in text and "-m 512" in text
    assert (
        "file=/d.qcow2,format=qcow2" in text
        and "file=/seed,format=raw,if=none,id=node,cache=unsafe,readonly=on" in text
    )
    assert "ifname=lab-worker.1,script=no" in text and "id=card1,mac=02:01:ac:12:12:0b" in text
    assert "user," not in text, "a network of QEMU's own would reach this machine's"


def test_with_kvm_the_processor_is_this_machines(topology: Topology) -> None:
    words = command("m", Hardware(PLATFORMS["aarch64"], Acceleration.KVM, 512, 2), SYSTEM, ())
    assert words[words.index("-cpu") + 1] == "host" and words[words.index("-accel") + 1] == "kvm"
    assert words[words.index("-machine") + 1] == "virt" and "console=ttyAMA0" in " ".join(words)


def test_kvm_is_tried_once_for_each_start_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, trials = tmp_path / "acceleration.json", []
    monkeypatch.setattr(acceleration, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr(acceleration, "_trial", lambda hardware, system: trials.append(hardware.acceleration))
    chosen, why = acceleration.choose(HARDWARE, SYSTEM, memory)
    assert chosen is Acceleration.EMULATION and "does not start" in why
    assert acceleration.choose(HARDWARE, SYSTEM, memory)[0] is Acceleration.EMULATION
    assert trials == [Acceleration.KVM]
    memory.write_text(json.dumps({"boot": "another", "kvm": True}))
    acceleration.choose(HARDWARE, SYSTEM, memory)
    assert len(trials) == 2


def test_without_the_device_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "DEVICE", tmp_path / "kvm")
    assert "missing" in acceleration.choose(HARDWARE, SYSTEM, tmp_path / "memory")[1]


def test_the_record_remembers_what_the_lab_is_made_of(topology: Topology, paths: LabPaths) -> None:
    written = record(topology)
    write_lab(written)
    assert read_lab(paths) == written and VmEnvironment("vmtest").patience == 1.0
    write_lab(replace(written, patience=5.0))
    assert VmEnvironment("vmtest").patience == Attachment("vm", "vmtest", paths.kubeconfig, False).patience == 5.0
    assert Attachment("netns", "vmtest", paths.kubeconfig, False).patience == 1.0
    content = json.loads(paths.record.read_text())
    del content["environment"], content["machines"], content["patience"]
    paths.record.write_text(json.dumps(content))
    old = read_lab(paths)
    assert old is not None and (old.environment, old.machines) == ("netns", ())


def test_a_lab_of_namespaces_is_not_taken_for_one_of_machines(
    topology: Topology, paths: LabPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = VmEnvironment("vmtest")
    with pytest.raises(EnvironmentFailure, match="another environment") as caught:
        environment._check_kind(LabRecord("vmtest", boot_id(), Stage.RUNNING, 0.0, 6443, False, {}))
    assert "--environment netns" in str(caught.value)


def test_a_namespace_cannot_hang(topology: Topology, paths: LabPaths) -> None:
    with pytest.raises(EnvironmentFailure, match="no machine of its own") as caught:
        faults.break_(paths, record(topology), Fault(FaultKind.HANG, "lab-control-plane"))
    assert "lab-worker2" in str(caught.value)
    assert faults.in_force(paths) == ()


@contextmanager
def monitor(paths: LabPaths, heard: list[dict[str, object]]) -> Iterator[None]:
    """Something that speaks QEMU's protocol, with an event in between."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(machine.monitor_socket(paths, "lab-worker")))
    listener.listen()

    def serve() -> None:
        client, _ = listener.accept()
        with client, client.makefile("rw") as stream:
            stream.write('{"QMP": {}}\n{"event": "NIC_RX_FILTER_CHANGED"}\n')
            stream.flush()
            for line in stream:
                request = json.loads(line)
                heard.append(request)
                known = request["execute"] != "system_reset"
                stream.write('{"return": {}}\n' if known else '{"error": {"desc": "not now"}}\n')
                stream.flush()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(5)
        listener.close()


def test_cables_are_pulled_by_the_monitor(paths: LabPaths) -> None:
    heard: list[dict[str, object]] = []
    with monitor(paths, heard):
        machine.set_links(paths, "lab-worker", ["1"], up=False)
    assert heard[-1] == {"execute": "set_link", "arguments": {"name": "card1", "up": False}}


def test_what_the_monitor_refuses_is_said(paths: LabPaths) -> None:
    with monitor(paths, []), pytest.raises(EnvironmentFailure, match="system_reset: not now"):
        machine.reset(paths, "lab-worker")


def test_a_machine_that_is_off_has_no_cables_to_pull(paths: LabPaths) -> None:
    machine.set_links(paths, "lab-worker", ["0"], up=False)
    with pytest.raises(EnvironmentFailure, match="does not answer"):
        machine.reset(paths, "lab-worker")
