"""Pods that came and went leave nothing: no files, links, namespaces, routes, processes or descriptors."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import KUBECTL, Cluster, pod, until


def _children(parent: int) -> list[str]:
    """Children of a process, dead ones that were not reaped as well."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            state, name = fields[0], entry.read_text().partition("(")[2].rpartition(")")[0]
            found.append(f"{entry.parent.name} {name} {state}")
    return found


def _interrupted_exec(cluster: Cluster, name: str) -> None:
    """A client that goes away takes the command with it."""
    argv = [str(KUBECTL), "--kubeconfig", str(cluster.server.kubeconfig), "exec", name, "--", "sleep", "4321"]
    with subprocess.Popen(argv) as client:
        until(lambda: "sleep 4321" in cluster.exec(name, "ps"), "the command runs")
        client.kill()
    until(lambda: "sleep 4321" not in cluster.exec(name, "ps"), "the command is gone")


@pytest.mark.root
def test_pods_that_came_and_went(cluster: Cluster) -> None:
    """Five pods, each executed in and logged from, then deleted."""
    node = cluster.nodes["n1"]
    assert node.process is not None
    folder = Path(f"/proc/{node.process.pid}/fd")
    cluster.apply(pod("warm", "sleep", "1000"))
    cluster.ready("warm")
    cluster.exec("warm", "true")
    cluster.delete("warm")
    before = (
        len(list(folder.iterdir())),
        node.run("ip", "-o", "link"),
        node.run("ip", "route"),
        node.run("ip", "-6", "route"),
    )
    names = [f"guest-{number}" for number in range(5)]
    # Some are over before the kubelet has looked at their processes.
    cluster.apply(*(pod(f"brief-{number}", "true", restartPolicy="Never") for number in range(5)))
    for number in range(5):
        until(lambda name=f"brief-{number}": cluster.pod(name)["status"]["phase"] == "Succeeded", "it has ended")
        cluster.delete(f"brief-{number}")
    cluster.apply(*(pod(name, "sleep", "1000") for name in names))
    uids = [cluster.ready(name)["metadata"]["uid"] for name in names]
    for name in names[:2]:
        cluster.exec(name, "true")
        cluster.kubectl("logs", name)
    _interrupted_exec(cluster, names[0])
    for name in names:
        cluster.delete(name)
    after = (node.run("ip", "-o", "link"), node.run("ip", "route"), node.run("ip", "-6", "route"))
    assert after == before[1:]
    assert not any((Path("/run/netns") / node.config.pod_namespace(uid)).exists() for uid in uids)
    # Connections that are kept for the next request come and go.
    until(lambda: len(list(folder.iterdir())) <= before[0] + 2, "descriptors are closed")
    kubelet = node.process.pid
    with suppress(pytest.fail.Exception):
        until(lambda: not _children(kubelet), "every child was reaped")
    assert not _children(kubelet), "every child was reaped"
    threads = list(Path(f"/proc/{kubelet}/task").iterdir())
    assert len(threads) == 1, "the kubelet forks: it must have one thread"
