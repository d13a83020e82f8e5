"""Removing what pods leave behind, by record and without a kubelet: after a crash, and when a lab is taken down.

Processes are found by their records, by the mark that every run carries in its environment, and by membership in a
pod's network namespace; nothing is ever found by a name pattern.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from egresslab.cluster.node.config import NodeConfig
from egresslab.cluster.node.containers import RUN_VARIABLE, Container
from egresslab.cluster.node.namespaces import inode_of, remove_namespace
from egresslab.cluster.node.processes import Identity, all_pids, identify, kill_all
from egresslab.cluster.node.sandbox import sandboxes
from egresslab.errors import ClusterError

DEADLINE_S = 5.0


def _marked(directories: Iterable[Path]) -> list[Identity]:
    """Processes that carry the mark of one of these runs' directories, or of one below."""
    marks = tuple(f"{RUN_VARIABLE}={directory}/".encode() for directory in directories)
    found = []
    for pid in all_pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if any((word + b"/").startswith(marks) for word in environment.split(b"\0")):
            identity = identify(pid)
            found += [identity] if identity is not None else []
    return found


def _members(inodes: Iterable[int]) -> list[Identity]:
    """Processes in one of these network namespaces."""
    wanted = set(inodes)
    found = []
    for pid in all_pids() if wanted else ():
        try:
            inside = os.stat(f"/proc/{pid}/ns/net").st_ino in wanted  # noqa: PTH116
        except OSError:
            continue
        identity = identify(pid) if inside else None
        found += [identity] if identity is not None else []
    return found


async def end_unrecorded(directory: Path) -> None:
    """End a run whose kubelet died before it could write the record."""
    await asyncio.sleep(0)
    _kill(_marked([directory]), str(directory))


def _kill(identities: Iterable[Identity], what: str) -> None:
    if not kill_all(identities, DEADLINE_S):
        raise ClusterError(f"processes did not end within {DEADLINE_S:g} s of SIGKILL", object=what)


def end_pod(directory: Path, namespace: str | None) -> None:
    """Kill every process of a pod; raises `ClusterError` when one is stuck in the kernel."""
    end_pods([directory], [namespace] if namespace else [])


def end_pods(directories: list[Path], namespaces: Iterable[str]) -> None:
    """Kill every process of these pods."""
    recorded: list[Identity] = []
    for directory in directories:
        for run in directory.glob("containers/*/*"):
            container = Container.load(run)
            recorded += container.record.processes() if container is not None else []
    inodes = [inode for name in namespaces if (inode := inode_of(name)) is not None]
    everything = {*recorded, *_marked(directories), *_members(inodes)}
    _kill(everything, ", ".join(directory.name for directory in directories))


def remove_node_leftovers(config: NodeConfig) -> None:
    """Remove all pods of a node: processes, namespaces with their links, files. The kubelet must not be running.

    Raises `ClusterError` when a process does not die.
    """
    found = list(sandboxes(config))
    directories = [directory for directory, _ in found]
    names = {config.pod_namespace(directory.name) for directory in directories}
    names |= {sandbox.link.namespace for _, sandbox in found if sandbox is not None and sandbox.link is not None}
    if directories:
        end_pods(directories, names)
    for name in names:
        remove_namespace(name)
    shutil.rmtree(config.pods, ignore_errors=True)
