"""How a lab is doing, read off records, processes, namespaces and the API server; changes nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from egresslab.api.connection import connect
from egresslab.api.resources import NODES
from egresslab.environments.base import NodeStatus, Phase, ProcessStatus, Status
from egresslab.environments.netns import faults
from egresslab.environments.netns.configs import node_process
from egresslab.environments.netns.labrecord import LabRecord, Stage, read_lab
from egresslab.environments.netns.paths import NAMESPACES, LabPaths
from egresslab.environments.netns.readiness import is_ready
from egresslab.environments.netns.records import is_alive, read_records
from egresslab.errors import ClusterError

API_DEADLINE_S = 5.0


def observe(paths: LabPaths) -> Status:
    """The status of a lab, also of one that does not exist or was left half made."""
    record = read_lab(paths)
    if record is None:
        return Status(paths.lab, "netns", Phase.ABSENT, None, None)
    remarks: list[str] = []
    if not record.survived:
        remarks.append("the machine was restarted since; `egresslab up` makes the lab anew")
    processes = _processes(paths)
    ready = asyncio.run(_ready_nodes(paths, remarks)) if record.survived and processes else None
    nodes = _nodes(paths, record, ready)
    missing = [name for name in record.namespaces() if not (NAMESPACES / name).exists()]
    in_force = faults.in_force(paths)
    remarks += [f"network namespace {name} is missing" for name in missing]
    whole = ready is not None and all(node.ready for node in nodes) and not missing
    running = whole and not in_force and all(process.pid is not None for process in processes)
    if record.stage is not Stage.RUNNING:
        phase = Phase.BUILDING
    else:
        phase = Phase.RUNNING if running else Phase.DEGRADED
    api = f"https://127.0.0.1:{record.api_port}"
    if record.patience > 1:
        remarks.append(f"processors are emulated: waits and drills are stretched {record.patience:g} times")
    remarks += [f"console of {name}: {paths.log(node_process(name))}" for name in record.machines]
    return Status(
        paths.lab, record.environment, phase, paths.kubeconfig, api, nodes, processes, in_force, tuple(remarks)
    )


def _processes(paths: LabPaths) -> tuple[ProcessStatus, ...]:
    found = []
    for record in read_records(paths.processes):
        alive = is_alive(record)
        found.append(
            ProcessStatus(
                record.name,
                record.pid if alive else None,
                datetime.fromtimestamp(record.since, UTC) if alive else None,
                record.restarts,
                (paths.held / record.name).exists(),
            )
        )
    return tuple(found)


async def _ready_nodes(paths: LabPaths, remarks: list[str]) -> dict[str, bool] | None:
    try:
        async with asyncio.timeout(API_DEADLINE_S), connect(paths.kubeconfig) as api:
            nodes, _ = await api.list(NODES)
    except (ClusterError, TimeoutError) as error:
        remarks.append(f"the API server does not answer: {str(error).splitlines()[0] if str(error) else 'time out'}")
        return None
    return {node["metadata"]["name"]: is_ready(node) for node in nodes}


def _nodes(paths: LabPaths, record: LabRecord, ready: dict[str, bool] | None) -> tuple[NodeStatus, ...]:
    in_force = faults.in_force(paths)
    return tuple(
        NodeStatus(
            node.name,
            node.role.value,
            {network: tuple(map(str, addresses)) for network, addresses in node.addresses.items()},
            None if ready is None else ready.get(node.name, False),
            tuple(fault for fault in in_force if fault.target == node.name),
        )
        for node in record.parsed_topology().nodes
    )
