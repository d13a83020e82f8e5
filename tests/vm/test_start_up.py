"""What a machine starts from: the archive its kernel reads, the order of drivers, what tells it which node it is."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from egresslab.environments.definitions import definitions
from egresslab.environments.netns.configs import write_configs
from egresslab.environments.netns.credentials import Identities
from egresslab.environments.netns.fabric import plan_node
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.topology import Topology, load_topology
from egresslab.environments.vm import seed
from egresslab.environments.vm.initrd import archive, load_order
from egresslab.errors import EnvironmentFailure

DEPENDENCIES = """\
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
"""


@pytest.fixture(scope="module")
def topology() -> Topology:
    """The default one."""
    return load_topology(definitions("netns") / "topology.yaml")


def test_a_module_comes_after_what_it_needs() -> None:
    names = [Path(path).stem for path in load_order(DEPENDENCIES, ["virtio_blk", "virtio_pci", "virtio_rng"])]
    assert names == ["virtio_ring", "virtio", "virtio_blk", "virtio_pci", "virtio-rng"]


def test_a_module_that_the_kernel_lacks_is_named() -> None:
    with pytest.raises(EnvironmentFailure, match="no such module") as caught:
        load_order(DEPENDENCIES, ["virtio_blk", "virtio_floppy"])
    assert caught.value.value == "virtio_floppy"


def test_cpio_reads_the_archive(tmp_path: Path) -> None:
    script = b"#!/bin/sh\nexit 0\n"
    raw = archive({"bin": (stat.S_IFDIR | 0o755, b""), "bin/start": (stat.S_IFREG | 0o755, script)})
    try:
        subprocess.run(["cpio", "-i", "--quiet"], input=raw, cwd=tmp_path, check=True)
    except FileNotFoundError:
        pytest.skip("cpio is not installed")
    assert (tmp_path / "bin" / "start").read_bytes() == script
    assert stat.S_IMODE((tmp_path / "bin" / "start").stat().st_mode) == 0o755


def test_a_nodes_archive_has_its_networks_and_no_path_of_this_machine(
    topology: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egresslab.environments.netns.paths.STATE", tmp_path)
    paths = LabPaths("seed")
    node = topology.node("lab-worker2")
    paths.pki.mkdir(parents=True)
    for name in ("ca.crt", f"kubelet-{node.name}.crt", f"kubelet-{node.name}.key"):
        (paths.pki / name).write_text(f"{name}\n")
    for each in topology.nodes:
        paths.node(each.name).mkdir(parents=True)
    write_configs(paths, topology, Identities.new(each.name for each in topology.nodes), 6443)
    file = seed.write_seed(paths, topology, node)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with tarfile.open(fileobj=io.BytesIO(file.read_bytes())) as read:
        texts = {member.name: read.extractfile(member).read().decode() for member in read.getmembers()}  # type: ignore[union-attr]
    assert file.stat().st_size % 512 == 0, "a disk has whole sectors"
    assert "address add 192.168.60.12/24 dev eth0" in texts["network"]
    assert "address add fd00:18::12/64 dev eth1" in texts["network"]
    assert "route add default via 172.18.18.1 dev eth1 metric 200" in texts["network"]
    assert texts["kubelet.key"] == f"kubelet-{node.name}.key\n"
    config = json.loads(texts["config.json"])
    assert config["root"] == "/" and config["network_namespace"] is None
    assert str(tmp_path) not in texts["config.json"]


def test_cards_get_the_topologys_names_whatever_the_kernel_calls_them(topology: Topology) -> None:
    plan = plan_node(topology, LabPaths("x"), topology.node("lab-worker"))
    commands = seed.links(plan).splitlines()
    assert commands.index("link set dev eth1 name card1") < commands.index("link set dev card0 name eth0")
    assert "net/ipv6/conf/eth1/accept_dad 0" in seed.settings(plan).splitlines()
