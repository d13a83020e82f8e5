"""What a container may and may not: rights, processes, files, and the kernel's own file systems."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from egresslab.cluster.node.kernel import CAPABILITIES
from egresslab.cluster.node.rootfs import DEFAULT_CAPABILITIES

from .conftest import Cluster, pod

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def plain(cluster: Cluster) -> Iterator[str]:
    """An ordinary pod."""
    cluster.apply(pod("plain", "sleep", "1000"))
    cluster.ready("plain")
    yield "plain"
    cluster.delete("plain")


def _effective(cluster: Cluster, name: str, process: str = "2") -> frozenset[str]:
    line = cluster.exec(name, "grep", "CapEff", f"/proc/{process}/status")
    mask = int(line.split()[1], 16)
    return frozenset(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


def test_ordinary_containers_have_few_rights(cluster: Cluster, plain: str) -> None:
    """The default set for the container and for commands in it, and no way to change the network or the kernel."""
    assert _effective(cluster, plain) == _effective(cluster, plain, "self") == DEFAULT_CAPABILITIES
    for command in (
        "ip link set eth0 down",
        "echo 1 > /proc/sys/kernel/panic",
        "mount -t tmpfs x /mnt",
        "echo > /sys/x",
    ):
        assert cluster.kubectl("exec", plain, "--", "sh", "-c", command, check=False).returncode, command
    assert "1 packets received" in cluster.exec(plain, "ping", "-c", "1", "10.244.1.1")


def test_containers_see_only_themselves(cluster: Cluster, plain: str) -> None:
    """Neither other processes, nor other pods' files, nor the machine's."""
    assert len(cluster.exec(plain, "sh", "-c", "ls -d /proc/[0-9]*").split()) <= 4
    assert cluster.exec(plain, "hostname") == "plain\n"
    config = cluster.nodes["n1"].config
    for path in (config.state, "/etc/shadow", "/run/netns"):
        assert cluster.kubectl("exec", plain, "--", "ls", str(path), check=False).returncode
    assert cluster.exec(plain, "sh", "-c", "ls /sys/class/net").split() == ["eth0", "lo"]


def test_added_dropped_and_other_users(cluster: Cluster) -> None:
    """securityContext: capabilities, user, group, read-only root."""
    added = {
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    }
    user = {"securityContext": {"runAsUser": 1234, "runAsGroup": 99}}
    cluster.apply(pod("added", "sleep", "1000", container=added), pod("user", "sleep", "1000", container=user))
    cluster.ready("added")
    assert _effective(cluster, "added") == {"NET_ADMIN"}
    assert cluster.kubectl("exec", "added", "--", "touch", "/file", check=False).returncode
    cluster.exec("added", "touch", "/tmp/file")
    cluster.ready("user")
    assert cluster.exec("user", "sh", "-c", "id -u; id -g").split() == ["1234", "99"]
    assert cluster.exec("user", "cat", "/proc/2/status").count("1234") >= 4
    assert _effective(cluster, "user", "self") == frozenset()
    for name in ("added", "user"):
        cluster.delete(name)


def test_privileged_host_pod_uses_bpf_and_settings(cluster: Cluster) -> None:
    """The agent's way of life: the node's bpffs through a hostPath, bpf(), net settings, and a private /proc."""
    root = cluster.nodes["n1"].config.root
    bpffs = root / "sys/fs/bpf"
    bpffs.mkdir(parents=True)
    subprocess.run(["mount", "-t", "bpf", "bpf", str(bpffs)], check=True)
    try:
        mounts = [{"name": "bpf", "mountPath": "/sys/fs/bpf"}]
        volumes = [{"name": "bpf", "hostPath": {"path": "/sys/fs/bpf", "type": "DirectoryOrCreate"}}]
        container = {"securityContext": {"privileged": True}, "volumeMounts": mounts}
        cluster.apply(
            pod(
                "agent",
                "sleep",
                "1000",
                image="egresslab/agent",
                hostNetwork=True,
                container=container,
                volumes=volumes,
            )
        )
        cluster.ready("agent")
        create = "bpftool map create /sys/fs/bpf/trial type hash key 4 value 4 entries 8 name trial"
        cluster.exec("agent", "sh", "-c", create)
        assert (bpffs / "trial").exists()
        assert "entries 8" in cluster.exec("agent", "bpftool", "map", "show", "pinned", "/sys/fs/bpf/trial").replace(
            "max_entries", "entries"
        )
        cluster.exec("agent", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/eth0/send_redirects")
        assert cluster.nodes["n1"].run("cat", "/proc/sys/net/ipv4/conf/eth0/send_redirects") == "0\n"
        assert "eth0" in cluster.exec("agent", "ls", "/sys/class/net").split()
        assert cluster.exec("agent", "python", "-c", "import egresslab, sys; print(sys.version_info[0])") == "3\n"
        cluster.exec("agent", "test", "-x", "/opt/bin/cilium-dbg")
        found = cluster.exec("agent", "sh", "-c", "command -v egresslab-dbg")
        assert found.strip() == "/opt/bin/egresslab-dbg"
        cluster.delete("agent")
    finally:
        subprocess.run(["umount", str(bpffs)], check=True)
