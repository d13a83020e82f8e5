"""What a lab on Kind consists of, computed from its name and topology. Pure: it names and describes, and makes nothing.

Everything in Docker bears the lab's name. Nodes are named in Kubernetes as the chapters name them (`lab-worker`), and
their containers as kind names them (`egresslab-LAB-worker`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from egresslab.environments.definitions import definitions
from egresslab.environments.netns.topology import Node, Role, Topology

LABEL = "dev.egresslab.lab"
NETWORK_VARIABLE = "KIND_EXPERIMENTAL_DOCKER_NETWORK"
"""How kind is told which of Docker's networks to use."""
SHARED = "/var/log/outside"
"""Where the control plane finds the firewall's log."""
NAMESPACES = "/run/egresslab/namespaces"
CGROUPFS = """[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""
GATEWAY = 254
"""Last octet of Docker's own address in a network: .1 is the router of the lab's world."""


class Datapath(StrEnum):
    """Who carries egress policies out."""

    CILIUM = "cilium"
    EGRESSLAB = "egresslab"


@dataclass(frozen=True, slots=True)
class Plan:
    """One lab; `state` is the directory for its files."""

    lab: str
    topology: Topology
    datapath: Datapath
    state: Path
    node_image: str

    @property
    def cluster(self) -> str:
        """What kind calls it, and what everything's name begins with."""
        return f"egresslab-{self.lab}"

    @property
    def outside(self) -> str:
        """Container of the world outside."""
        return f"{self.cluster}-outside"

    def network(self, name: str) -> str:
        """Docker's name of a network of the topology."""
        return f"{self.cluster}-{name}"

    def containers(self) -> Mapping[str, str]:
        """Node to container, in the order of the topology; kind counts workers from the second on."""
        names, workers = {}, 0
        for node in self.topology.nodes:
            if node.role is Role.CONTROL_PLANE:
                names[node.name] = f"{self.cluster}-control-plane"
            else:
                workers += 1
                names[node.name] = f"{self.cluster}-worker{workers if workers > 1 else ''}"
        return names

    def address(self, node: Node, network: str) -> str:
        """The node's IPv4 address in a network."""
        return next(str(address) for address in node.addresses[network] if address.version == 4)

    def router(self, network: str) -> str:
        """The world's IPv4 address in a network."""
        return next(str(a) for a in self.topology.outside.router[network] if a.version == 4)

    def networks(self) -> Iterator[list[str]]:
        """Arguments of `docker network create`, the nodes' own network first."""
        for name, network in sorted(self.topology.networks.items(), key=lambda item: item[0] != self.topology.primary):
            gateway = network.ipv4.network_address + GATEWAY
            yield [
                "--driver=bridge",
                f"--subnet={network.ipv4}",
                f"--gateway={gateway}",
                f"--opt=com.docker.network.driver.mtu={network.mtu}",
                # Docker would also masquerade what crosses one of its bridges with a source of another's network, which
                # an egress IP may be. So only the nodes' own network leads out through Docker.
                f"--opt=com.docker.network.bridge.enable_ip_masquerade={str(name == self.topology.primary).lower()}",
                f"--label={LABEL}={self.lab}",
                self.network(name),
            ]

    def kind_config(self, *, old_cgroups: bool = False) -> dict[str, Any]:
        """The cluster as kind reads it (v1alpha4). `old_cgroups`: Docker's machine has control groups of version 1,
        on which a kubelet of Kubernetes 1.35 and later does not start unasked."""
        file = "cluster-cilium.yaml" if self.datapath is Datapath.CILIUM else "cluster.yaml"
        config: dict[str, Any] = yaml.safe_load((definitions("kind") / file).read_text())
        config["name"] = self.cluster
        config["networking"]["podSubnet"] = str(self.topology.pods.ipv4)
        config["networking"]["serviceSubnet"] = str(self.topology.services.ipv4)
        config["nodes"] = [self._kind_node(node) for node in self.topology.nodes]
        if old_cgroups:
            # systemd in a container cannot always make control groups of version 1 for others.
            kubelet = {"kind": "KubeletConfiguration", "failCgroupV1": False, "cgroupDriver": "cgroupfs"}
            config["kubeadmConfigPatches"] = [yaml.safe_dump(kubelet)]
            config["containerdConfigPatches"] = [CGROUPFS]
        return config

    def _kind_node(self, node: Node) -> dict[str, Any]:
        control = node.role is Role.CONTROL_PLANE
        kind = "InitConfiguration" if control else "JoinConfiguration"
        described: dict[str, Any] = {
            "role": "control-plane" if control else "worker",
            "image": self.node_image,
            "kubeadmConfigPatches": [yaml.safe_dump({"kind": kind, "nodeRegistration": {"name": node.name}})],
        }
        # Kubernetes sets these two itself.
        labels = {key: value for key, value in node.labels.items() if not key.startswith("node-role.kubernetes.io/")}
        if labels:
            described["labels"] = labels
        if control:
            described["extraMounts"] = [
                {"hostPath": str(self.state / "outside"), "containerPath": SHARED},
                {
                    "hostPath": str(self.state / "namespaces"),
                    "containerPath": NAMESPACES,
                    "propagation": "HostToContainer",
                },
            ]
        return described

    def addresses_by_container(self) -> dict[str, str]:
        """Which address each node's container gets in the nodes' own network."""
        names = self.containers()
        return {names[node.name]: self.address(node, self.topology.primary) for node in self.topology.nodes}

    def docker_shim(self, docker: str) -> str:
        """A `docker` that gives nodes their addresses: kind leaves those to Docker, and lessons name them."""
        cases = "".join(f"    {name}) address={a} ;;\n" for name, a in self.addresses_by_container().items())
        return (
            "#!/bin/sh\n"
            f"# Written by egresslab for lab {self.lab}: kind's `docker run` of a node, with its address.\n"
            '[ "$1" = run ] || exec ' + docker + ' "$@"\n'
            "address= before=\n"
            'for word; do\n  if [ "$before" = --name ]; then case $word in\n'
            + cases
            + "  esac; fi\n  before=$word\ndone\n"
            '[ -n "$address" ] || exec ' + docker + ' "$@"\n'
            "shift\n"
            f'exec {docker} run --ip "$address" --label {LABEL}={self.lab} "$@"\n'
        )

    def world(self) -> dict[str, Any]:
        """What the container of the world outside is told (`egresslab.environments.kind.world`)."""
        outside = self.topology.outside
        carried: dict[str, list[str]] = {"lo": []}
        for name, network in self.topology.networks.items():
            carried[network.interface] = [f"{self.router(name)}/{network.ipv4.prefixlen}"]
        for server in outside.servers:
            for address in server.addresses:
                if address.version != 4:
                    continue
                near = self.topology.networks.get(server.network or "")
                if near is None:
                    carried["lo"].append(f"{address}/32")
                else:
                    carried[near.interface].append(f"{address}/{near.ipv4.prefixlen}")
        return {
            "addresses": carried,
            "outside": {
                "certificate": "/lab/pki/outside.crt",
                "key": "/lab/pki/outside.key",
                "servers": [
                    {
                        "name": server.name,
                        "addresses": [str(a) for a in server.addresses if a.version == 4],
                        "names": list(server.names),
                    }
                    for server in outside.servers
                ],
                "http_port": outside.http_port,
                "https_port": outside.https_port,
                "echo_port": outside.echo_port,
                "kubeconfig": "/lab/outside.kubeconfig",
                "firewall_log": "/lab/outside/firewall.log",
            },
        }

    def node_routes(self) -> list[str]:
        """`ip` commands that make the lab's internet reachable from a node: by the network of the lowest metric, and by
        each other one for packets that are bound to it."""
        internet = self.topology.outside.internet.ipv4
        return [
            # By the nodes' own network the rest of the world is Docker's; by another one there is the lab's alone.
            f"route replace {internet if name == self.topology.primary else 'default'} via {self.router(name)} "
            f"dev {network.interface} metric {network.metric}"
            for name, network in self.topology.networks.items()
        ]

    def write(self, *, old_cgroups: bool = False) -> None:
        """The files that other programs read: kind's configuration and the world's."""
        config = self.kind_config(old_cgroups=old_cgroups)
        (self.state / "kind.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (self.state / "world.json").write_text(json.dumps(self.world(), indent=1))
