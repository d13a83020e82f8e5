"""Makes a lab: files, certificates, namespaces, links, mounts; then hands over to the supervisor.

The record comes first and everything else after it, so an interruption at any point leaves a lab that can be removed
by its record. The network is built in a child process while keys are made here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from egresslab.environments.base import Progress
from egresslab.environments.netns import host
from egresslab.environments.netns.configs import firewall_log, node_process, write_configs
from egresslab.environments.netns.credentials import Identities, write_certificates, write_tokens
from egresslab.environments.netns.fabric import plan_fabric
from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.kernel import mount, mounts_below
from egresslab.environments.netns.labrecord import LabRecord, Stage, write_lab
from egresslab.environments.netns.network import build
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.records import boot_id, is_alive, read_record
from egresslab.environments.netns.supervisor import ACTIVE, STANDBY, command
from egresslab.environments.netns.topology import Node, Topology
from egresslab.errors import EnvironmentFailure

SUPERVISOR_DEADLINE_S = 10.0
PAUSE_S = 0.01
KEPT_VARIABLES = ("LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "KUBEBUILDER_ASSETS")
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class Machines(Protocol):
    """Nodes that are virtual machines: which ones, and what runs them."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def patience(self) -> float:
        """By how many times longer than usual what they do may take."""

    def command(self, paths: LabPaths, topology: Topology, node: Node) -> list[str]:
        """Make a node's machine from its configuration, which is written, and return what starts it."""


def construct(
    paths: LabPaths, topology: Topology, *, bare: bool, lock: int, progress: Progress, machines: Machines | None = None
) -> LabRecord:
    """Make everything that has to exist before the first process runs; the caller holds the lab's lock."""
    progress.step("network, certificates and configuration")
    with host.host_locked():
        port = host.free_port(paths.lab)
        record = LabRecord(
            paths.lab, boot_id(), Stage.BUILDING, time.time(), port, bare, topology.model_dump(mode="json")
        )
        if machines is not None:
            record = replace(record, environment="vm", machines=machines.nodes, patience=machines.patience)
        host.check_names(record)
        host.prepare_namespaces_directory()
        write_lab(record)
    builder = build(plan_fabric(topology, paths, record.machines), topology.networks, lock)
    try:
        _write_files(paths, topology, port, machines)
        builder.wait()
    except BaseException:
        # Whoever removes what is half made must not race with somebody who goes on making it.
        builder.abandon()
        raise
    record = record.at(Stage.BUILT)
    write_lab(record)
    return record


def _write_files(paths: LabPaths, topology: Topology, port: int, machines: Machines | None) -> None:
    for directory in (paths.processes, paths.held, paths.faults, paths.logs, paths.pki):
        directory.mkdir(exist_ok=True)
    virtual = machines.nodes if machines is not None else ()
    for node in topology.nodes:
        if node.name in virtual:
            paths.node(node.name).mkdir(parents=True, exist_ok=True)
        else:
            prepare_node_root(paths, node.name)
    Path(firewall_log(paths, topology)).parent.mkdir(parents=True, exist_ok=True)
    identities = Identities.new(node.name for node in topology.nodes)
    write_certificates(paths, topology)
    write_tokens(paths.tokens, identities)
    plan = write_configs(paths, topology, identities, port)
    for name in virtual:
        assert machines is not None
        plan[node_process(name)] = machines.command(paths, topology, topology.node(name))
    write_atomically(paths.plan, json.dumps(plan, indent=1))


def prepare_node_root(paths: LabPaths, node: str) -> None:
    """The directories of a node's own root, with a bpffs of its own mounted where containers expect it."""
    for inside in ("etc/cni/net.d", "run", "tmp", "var/lib", "var/log"):
        (paths.node_root(node) / inside).mkdir(parents=True, exist_ok=True)
    bpffs = paths.bpffs(node)
    bpffs.mkdir(parents=True, exist_ok=True)
    if bpffs not in mounts_below(bpffs):
        mount("bpf", bpffs, "bpf", 0)


def supervised(paths: LabPaths) -> bool:
    """Whether a supervisor of the lab is alive."""
    records = (read_record(paths.processes / f"{name}.json") for name in (ACTIVE, STANDBY))
    return any(record is not None and is_alive(record) for record in records)


def process_environment() -> dict[str, str]:
    """Environment variables of the lab's processes: what they need, and nothing of the shell that called us."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    path = [str(Path(sys.executable).parent), *os.environ.get("PATH", os.defpath).split(os.pathsep), *SYSTEM_PATH]
    return {**kept, "HOME": "/root", "PATH": os.pathsep.join(dict.fromkeys(path))}


def begin_supervisor(paths: LabPaths) -> subprocess.Popen[bytes]:
    """Start a supervisor, which starts everything else as soon as its standard input is closed and there is a plan."""
    for directory in (paths.processes, paths.held, paths.logs):
        directory.mkdir(exist_ok=True)
    with paths.log(ACTIVE).open("ab") as log:
        return subprocess.Popen(
            command(paths.lab),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env=process_environment(),
        )


def start_supervisor(paths: LabPaths, process: subprocess.Popen[bytes] | None = None) -> None:
    """Let the supervisor go on that was begun, or start one; returns when it is in charge."""
    process = process or begin_supervisor(paths)
    assert process.stdin is not None
    process.stdin.close()
    deadline = time.monotonic() + SUPERVISOR_DEADLINE_S
    while (record := read_record(paths.processes / f"{ACTIVE}.json")) is None or not is_alive(record):
        if process.poll() is not None or time.monotonic() > deadline:
            raise EnvironmentFailure(
                f"did not take charge (exit status {process.poll()})",
                object=f"supervisor of lab {paths.lab}",
                fix=f"read {paths.log(ACTIVE)}",
            )
        time.sleep(PAUSE_S)
