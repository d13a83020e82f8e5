"""Breaking a lab on purpose: a node that dies at once, a pulled cable, a killed or stopped process; and mending it.

Every fault in force has a file, so that any later command knows of it. A crash follows the order of a power cut: first
the node falls silent on every network, then everything on it is gone, and the supervisor is told to leave it so. Nodes
that are virtual machines (the lab's record names them) lose their machine, and feel a pulled cable.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from egresslab.cluster.assets import API_SERVER, ETCD
from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.netns.configs import CONTROL_PLANE, node_process
from egresslab.environments.netns.construction import prepare_node_root
from egresslab.environments.netns.demolition import kill_members, remove_namespace
from egresslab.environments.netns.fabric import plan_fabric, port_name
from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.kernel import mounts_below, unmount
from egresslab.environments.netns.labrecord import LabRecord
from egresslab.environments.netns.locks import locked
from egresslab.environments.netns.network import build, switch_ports
from egresslab.environments.netns.paths import FABRIC, LabPaths
from egresslab.environments.netns.records import kill, open_process, read_record, read_records
from egresslab.environments.netns.supervisor import ACTIVE
from egresslab.environments.netns.topology import Topology
from egresslab.environments.vm import machine
from egresslab.errors import EnvironmentFailure

PATIENCE_S = 10.0
KILL_DEADLINE_S = 10.0


def in_force(paths: LabPaths) -> tuple[Fault, ...]:
    """Faults of the lab, by file name."""
    found = (json.loads(path.read_text()) for path in sorted(paths.faults.glob("*.json")))
    return tuple(Fault(FaultKind(entry["kind"]), entry["target"], entry["network"]) for entry in found)


def break_(paths: LabPaths, record: LabRecord, fault: Fault) -> None:
    """Do it; breaking what is broken already changes nothing."""
    if fault.kind is FaultKind.KILL:
        _kill(paths, fault.target)
        return
    if fault.kind is FaultKind.STOP:
        with locked(paths.root, PATIENCE_S, f"another command at work on lab {paths.lab}"):
            _stop(paths, fault)
        return
    topology = record.parsed_topology()
    topology.node(fault.target)
    with locked(paths.root, PATIENCE_S, f"another command at work on lab {paths.lab}") as lock:
        match fault.kind:
            case FaultKind.CUT:
                _cut(paths, record, topology, fault)
            case FaultKind.HANG:
                _hang(paths, record, fault)
            case FaultKind.POWER:
                _power(paths, record, topology, fault.target, lock)
            case _:
                _crash(paths, record, topology, fault)


def _file(paths: LabPaths, fault: Fault) -> Path:
    parts = (fault.target, fault.kind.value, fault.network)
    return paths.faults / f"{'.'.join(part for part in parts if part)}.json"


def _remember(paths: LabPaths, fault: Fault) -> None:
    write_atomically(_file(paths, fault), json.dumps(asdict(fault)))


def _ports(topology: Topology, node: str, network: str | None) -> list[str]:
    names = list(topology.networks)
    if network is not None and network not in names:
        raise EnvironmentFailure(
            "the lab has no such network", object="network", value=network, fix=f"name one of: {', '.join(names)}"
        )
    connected = topology.node(node).addresses
    return [port_name(node, index) for index, name in enumerate(names) if name in connected and network in (None, name)]


def _cut(paths: LabPaths, record: LabRecord, topology: Topology, fault: Fault) -> None:
    ports = _ports(topology, fault.target, fault.network)
    _remember(paths, fault)
    _switch(paths, record, fault.target, ports, "down")


def _switch(paths: LabPaths, record: LabRecord, node: str, ports: Collection[str], state: str) -> None:
    """Set a node's ports up or down. A machine is told by its network cards that it has lost a link; the port is down
    all the same, for a machine that is started again meanwhile."""
    if node in record.machines:
        machine.set_links(paths, node, [port.rpartition(".")[2] for port in ports], up=state == "up")
    switch_ports(paths.namespace(FABRIC), ports, state)


def _hang(paths: LabPaths, record: LabRecord, fault: Fault) -> None:
    if fault.target not in record.machines:
        raise EnvironmentFailure(
            "is no machine of its own, so its kernel cannot hang alone",
            object=f"node {fault.target}",
            fix=f"use a node that is one ({', '.join(record.machines) or 'egresslab up --environment vm'}), or crash",
        )
    _remember(paths, fault)
    _signal(paths, node_process(fault.target), signal.SIGSTOP)


def _power(paths: LabPaths, record: LabRecord, topology: Topology, node: str, lock: int | None) -> None:
    if node in record.machines:
        machine.reset(paths, node)
        return
    crash = Fault(FaultKind.CRASH, node)
    _crash(paths, record, topology, crash)
    _revive(paths, record, topology, node, lock)
    _file(paths, crash).unlink(missing_ok=True)
    wake_supervisor(paths)


def _crash(paths: LabPaths, record: LabRecord, topology: Topology, fault: Fault) -> None:
    node = fault.target
    processes = _processes(topology, node)
    _remember(paths, fault)
    for process in processes:
        (paths.held / process).touch()
    switch_ports(paths.namespace(FABRIC), _ports(topology, node, None), "down")
    deadline = time.monotonic() + KILL_DEADLINE_S
    records = (read_record(paths.processes / f"{process}.json") for process in processes)
    kill([descriptor for r in records if r and (descriptor := open_process(r)) is not None], deadline)
    if node in record.machines:
        return
    namespaces = [paths.namespace(node), *_pods_of(paths, node)]
    kill_members(namespaces, deadline)
    for name in namespaces:
        remove_namespace(name)
    for point in mounts_below(paths.node(node)):
        unmount(point)
    for volatile in ("run", "tmp"):
        shutil.rmtree(paths.node_root(node) / volatile, ignore_errors=True)


def _processes(topology: Topology, node: str) -> list[str]:
    """The supervised processes that live and die with a node."""
    return [node_process(node), *((CONTROL_PLANE, ETCD, API_SERVER) if topology.control_plane.name == node else ())]


def _pods_of(paths: LabPaths, node: str) -> list[str]:
    """Namespaces of the pods on one node, by their directories."""
    pods = paths.node(node) / "pods"
    uids = [entry.name for entry in pods.iterdir()] if pods.is_dir() else []
    wanted = {paths.namespace(f"pod-{uid[:8]}") for uid in uids}
    return [name for name in paths.pod_namespaces() if name in wanted]


def heal(paths: LabPaths, record: LabRecord, target: str) -> None:
    """Mend every fault of a node: plug its cables in, let it go on, or give it a fresh network and let it start. Of a
    process: let it start."""
    if (stopped := Fault(FaultKind.STOP, target)) in in_force(paths):
        with locked(paths.root, PATIENCE_S, f"another command at work on lab {paths.lab}"):
            (paths.held / target).unlink(missing_ok=True)
            _file(paths, stopped).unlink(missing_ok=True)
            wake_supervisor(paths)
        return
    topology = record.parsed_topology()
    node = topology.node(target)
    with locked(paths.root, PATIENCE_S, f"another command at work on lab {paths.lab}") as lock:
        faults = [fault for fault in in_force(paths) if fault.target == target]
        if any(fault.kind is FaultKind.CRASH for fault in faults):
            _rebuild(paths, record, topology, node.name, lock)
        _continue(paths, record, node.name)
        _switch(paths, record, node.name, _ports(topology, node.name, None), "up")
        for process in _processes(topology, node.name):
            (paths.held / process).unlink(missing_ok=True)
        for fault in faults:
            _file(paths, fault).unlink()
        wake_supervisor(paths)


def mend(paths: LabPaths, record: LabRecord, fault: Fault) -> None:
    """Mend one fault and leave every other one of its target in force; one that is not in force changes nothing."""
    if fault.kind is FaultKind.STOP:
        if fault in in_force(paths):
            heal(paths, record, fault.target)
        return
    topology = record.parsed_topology()
    node = topology.node(fault.target)
    with locked(paths.root, PATIENCE_S, f"another command at work on lab {paths.lab}") as lock:
        found = [other for other in in_force(paths) if other.target == node.name]
        if fault not in found:
            return
        left = [other for other in found if other != fault]
        if fault.kind is FaultKind.CRASH:
            _rebuild(paths, record, topology, node.name, lock)
        if fault.kind is FaultKind.HANG:
            _continue(paths, record, node.name)
        every = set(_ports(topology, node.name, None))
        crashed = any(other.kind is FaultKind.CRASH for other in left)
        cut = {port for other in left for port in _ports(topology, node.name, other.network)}
        back = set(_ports(topology, node.name, fault.network)) - cut
        _switch(paths, record, node.name, sorted(every & cut), "down")
        if not crashed:
            _switch(paths, record, node.name, sorted(back), "up")
            for process in _processes(topology, node.name):
                (paths.held / process).unlink(missing_ok=True)
        _file(paths, fault).unlink()
        wake_supervisor(paths)


def _revive(paths: LabPaths, record: LabRecord, topology: Topology, node: str, lock: int | None) -> None:
    _rebuild(paths, record, topology, node, lock)
    switch_ports(paths.namespace(FABRIC), _ports(topology, node, None), "up")
    for process in _processes(topology, node):
        (paths.held / process).unlink(missing_ok=True)


def _continue(paths: LabPaths, record: LabRecord, node: str) -> None:
    """Let a machine that hangs go on; to one that does not, it means nothing."""
    if node in record.machines:
        _signal(paths, node_process(node), signal.SIGCONT)


def _signal(paths: LabPaths, process: str, number: signal.Signals) -> None:
    record = read_record(paths.processes / f"{process}.json")
    descriptor = open_process(record) if record else None
    if descriptor is not None:
        try:
            signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _rebuild(paths: LabPaths, record: LabRecord, topology: Topology, node: str, lock: int | None) -> None:
    """A fresh network and root for a node that has crashed; a machine brings its own."""
    if node in record.machines:
        return
    if not paths.namespace_file(node).exists():
        build(plan_fabric(topology, paths).only(paths.namespace(node)), topology.networks, lock).wait()
    prepare_node_root(paths, node)


def wake_supervisor(paths: LabPaths) -> None:
    """Tell the supervisor to look again now; it would by itself within a second."""
    _signal(paths, ACTIVE, signal.SIGHUP)


def _stop(paths: LabPaths, fault: Fault) -> None:
    if not any(record.name == fault.target for record in read_records(paths.processes)):
        _kill(paths, fault.target)
    _remember(paths, fault)
    (paths.held / fault.target).touch()
    record = read_record(paths.processes / f"{fault.target}.json")
    descriptor = open_process(record) if record else None
    if descriptor is not None:
        kill([descriptor], time.monotonic() + KILL_DEADLINE_S)


def _kill(paths: LabPaths, name: str) -> None:
    records = read_records(paths.processes)
    for record in records:
        if record.name == name:
            descriptor = open_process(record)
            if descriptor is None:
                raise EnvironmentFailure("is not running", object=f"process {name}", fix="egresslab status")
            kill([descriptor], time.monotonic() + KILL_DEADLINE_S)
            return
    raise EnvironmentFailure(
        "the lab has no such process",
        object="process",
        value=name,
        fix=f"name one of: {', '.join(record.name for record in records)}",
    )
