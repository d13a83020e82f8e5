"""The machines of one lab: which nodes they are, what they share, and the files and command of each."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from egresslab.cluster.assets import inside as inside_namespace
from egresslab.environments.netns.configs import node_process
from egresslab.environments.netns.doctor import SEARCH_PATH
from egresslab.environments.netns.fabric import hardware_address, port_name
from egresslab.environments.netns.paths import FABRIC, LabPaths
from egresslab.environments.netns.topology import Node, Role, Topology
from egresslab.environments.vm.machine import agent_socket, monitor_socket
from egresslab.environments.vm.project import make_project
from egresslab.environments.vm.qemu import Acceleration, Card, Disk, Hardware, Wiring, command
from egresslab.environments.vm.seed import write_seed
from egresslab.environments.vm.store import SystemImage
from egresslab.errors import EnvironmentFailure

DEADLINE_S = 30.0
EMULATED_PATIENCE = 10.0
"""An emulated processor is some ten times slower."""


def machine_names(topology: Topology) -> tuple[str, ...]:
    """The nodes that are machines: all but the control plane's, which shares a kernel with the world outside so that
    what passes there can be captured."""
    return tuple(node.name for node in topology.nodes if node.role is not Role.CONTROL_PLANE)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The machines of a lab (`construction.Machines`). `python` is the version that the system has."""

    nodes: tuple[str, ...]
    hardware: Hardware
    system: SystemImage
    python: str

    @property
    def patience(self) -> float:
        """By how many times longer than usual what these machines do may take."""
        return EMULATED_PATIENCE if self.hardware.acceleration is Acceleration.EMULATION else 1.0

    def command(self, paths: LabPaths, topology: Topology, node: Node) -> list[str]:
        """Make a node's disks and return what starts its machine."""
        project = paths.root / "project.ext4"
        if not project.exists():
            make_project(project, self.python)
        disks = (
            Disk("system", self._overlay(paths, node.name), "qcow2"),
            Disk("project", project, read_only=True),
            Disk("node", write_seed(paths, topology, node), read_only=True),
        )
        console = paths.log(node_process(node.name))
        wiring = Wiring(console, monitor_socket(paths, node.name), agent_socket(paths, node.name))
        name = f"egresslab-{paths.lab}-{node.name}"
        words = command(name, self.hardware, self.system, disks, cards(topology, node), wiring)
        program = shutil.which(words[0], path=SEARCH_PATH) or words[0]
        return inside_namespace(paths.namespace(FABRIC), [program, *words[1:]])

    def _overlay(self, paths: LabPaths, node: str) -> Path:
        """A disk that shows the system and keeps what the node writes; it survives the node's crash."""
        disk = paths.node(node) / "disk.qcow2"
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.system.disk), str(disk)]
        try:
            subprocess.run(words, capture_output=True, check=True, timeout=DEADLINE_S)
        except subprocess.CalledProcessError as error:
            raise EnvironmentFailure(error.stderr.decode(errors="replace").strip(), object=str(disk)) from error
        return disk


def cards(topology: Topology, node: Node) -> tuple[Card, ...]:
    """A node's network cards, in the order of the topology's networks."""
    found = []
    for number, network in enumerate(topology.networks):
        if network in node.addresses:
            (address,) = (address for address in node.addresses[network] if address.version == 4)
            found.append(Card(str(number), port_name(node.name, number), hardware_address(address, number)))
    return tuple(found)
