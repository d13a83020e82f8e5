"""A kubelet that dies interrupts nothing, and its successor takes over what is there: neither more nor less."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from egresslab.cluster.node.containers import read_record
from egresslab.cluster.node.leftovers import remove_node_leftovers
from egresslab.cluster.node.processes import Identity, is_alive, send_signal

from .conftest import Cluster, pod, until

pytestmark = pytest.mark.root


def _processes(directory: Path) -> list[Identity]:
    """Living processes of the runs below a pod's folder."""
    records = (read_record(run) for run in directory.glob("containers/*/*"))
    found = [identity for record in records if record is not None for identity in record.processes()]
    return [identity for identity in found if is_alive(identity)]


def _is_ready(version: dict[str, Any]) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in version["status"]["conditions"])


def test_a_killed_kubelet_adopts_what_runs(cluster: Cluster) -> None:
    """Same process, same address, same restart count, ready all along, still in charge."""
    node = cluster.nodes["n1"]
    probe = {"exec": {"command": ["sleep", "0.3"]}, "periodSeconds": 1}
    script = "while true; do echo tick; sleep 0.1; done"
    cluster.apply(pod("stay", "sh", "-c", script, container={"readinessProbe": probe}))
    before = cluster.ready("stay")
    node.kill(signal.SIGKILL)
    log = next((node.config.pods / before["metadata"]["uid"]).glob("containers/main/0/log"))
    written = log.stat().st_size
    until(lambda: log.stat().st_size > written, "the container goes on without a kubelet")
    node.start()
    until(lambda: cluster.kubectl("exec", "stay", "--", "true", check=False).returncode == 0, "exec works again")
    after = cluster.pod("stay")
    for field in ("podIP", "containerStatuses", "startTime"):
        assert after["status"][field] == before["status"][field]
    assert cluster.kubectl("logs", "stay").stdout.count("tick") > 3
    assert all(_is_ready(version) for version in cluster.history("stay", before)), "it was ready all the time"
    cluster.delete("stay")
    assert not (node.config.pods / before["metadata"]["uid"]).exists()


def test_an_end_while_no_kubelet_runs_is_not_lost(cluster: Cluster) -> None:
    """Exit code and time of a container that ended meanwhile are those of its end."""
    node = cluster.nodes["n1"]
    script = "while ! test -e /node/go; do sleep 0.05; done; exit 5"
    mounts = {"volumeMounts": [{"name": "node", "mountPath": "/node"}]}
    volumes = [{"name": "node", "hostPath": {"path": "/ends", "type": "DirectoryOrCreate"}}]
    cluster.apply(pod("ends", "sh", "-c", script, restartPolicy="Never", container=mounts, volumes=volumes))
    uid = cluster.ready("ends")["metadata"]["uid"]
    node.kill()
    (node.config.root / "ends/go").touch()
    until(lambda: not _processes(node.config.pods / uid), "the container has ended")
    node.start()
    until(lambda: cluster.pod("ends")["status"]["phase"] == "Failed", "the kubelet reports it")
    (container,) = cluster.pod("ends")["status"]["containerStatuses"]
    assert container["state"]["terminated"]["exitCode"] == 5 and container["restartCount"] == 0
    cluster.delete("ends")


def test_a_pod_deleted_while_no_kubelet_runs_is_removed_afterwards(cluster: Cluster) -> None:
    """Both ways: an orderly deletion waits for the kubelet, a forced one leaves remains that it clears away."""
    node = cluster.nodes["n1"]
    cluster.apply(pod("orderly", "sleep", "1000"), pod("forced", "sleep", "1000"))
    uids = [cluster.ready(name)["metadata"]["uid"] for name in ("orderly", "forced")]
    processes = [process for uid in uids for process in _processes(node.config.pods / uid)]
    assert len(processes) == 4
    node.kill()
    cluster.kubectl("delete", "pod", "orderly", "--wait=false", "--grace-period=1")
    cluster.kubectl("delete", "pod", "forced", "--force", "--grace-period=0", "--wait=false")
    node.start()
    until(lambda: not any((node.config.pods / uid).exists() for uid in uids), "both folders are gone")
    until(lambda: cluster.pods("/" + "orderly") is None, "the pod is gone from the API")
    assert not any(is_alive(process) for process in processes)
    links = node.run("ip", "-o", "link")
    assert not any(f"veth{uid[:8]}" in links for uid in uids)


def test_a_lost_network_makes_a_new_sandbox(cluster: Cluster) -> None:
    """After a node's crash the pod comes back with a new address, and its init containers run again."""
    node = cluster.nodes["n1"]
    init = [{"name": "first", "image": "busybox", "command": ["true"]}]
    cluster.apply(pod("crashed", "sleep", "1000", initContainers=init))
    before = cluster.ready("crashed")
    uid = before["metadata"]["uid"]
    node.kill()
    for process in _processes(node.config.pods / uid):
        send_signal(process, signal.SIGKILL)
    node.run("ip", "link", "delete", f"veth{uid[:8]}")
    node.start()

    def is_back() -> bool:
        status = cluster.pod("crashed")["status"]
        (container,) = status["containerStatuses"]
        return bool(
            container["restartCount"] == 1 and container["ready"] and status["podIP"] != before["status"]["podIP"]
        )

    until(is_back, "the pod is ready again with another address")
    status = cluster.pod("crashed")["status"]
    assert status["initContainerStatuses"][0]["restartCount"] == 1
    assert "SandboxChanged" in [reason for reason, _ in cluster.events("crashed")]
    cluster.delete("crashed")


def test_everything_of_a_dead_node_is_removed_by_record(cluster: Cluster) -> None:
    """`remove_node_leftovers`: processes, links, namespaces, files, without a kubelet; the node then starts anew."""
    node = cluster.nodes["n2"]
    names = ("one", "two", "three")
    cluster.apply(*(pod(name, "sleep", "1000", node="n2", hostNetwork=name == "three") for name in names))
    uids = [cluster.ready(name)["metadata"]["uid"] for name in names]
    # A run whose record was never written is found by its mark.
    (node.config.pods / uids[2] / "containers/main/0/record.json").unlink()
    before = node.run("ps", "-eo", "pid,args")
    assert before.count("sleep 1000") >= 3
    node.kill()
    remove_node_leftovers(node.config)
    until(lambda: "veth" not in node.run("ip", "-o", "link"), "the kernel has removed the links")
    assert not node.config.pods.exists()
    assert not any((Path("/run/netns") / node.config.pod_namespace(uid)).exists() for uid in uids)
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            assert str(node.config.pods).encode() not in process.read_bytes()
        except OSError:
            continue
    shutil.rmtree(node.config.state / "files")
    node.start()
    for name in names:
        cluster.ready(name)
        cluster.delete(name)
