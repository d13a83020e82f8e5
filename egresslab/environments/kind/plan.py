"""What a lab on Kind consists of, computed from its name and topology. Pure: it names and describes, and makes nothing.

Everything in Docker bears the lab's name. Nodes are named in Kubernetes as the chapters name them (`lab-worker`), and
their containers as kind names them (`egresslab-LAB-worker`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
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
"""Docker's own address in a network, counted from its first: .1 is the router of the lab's world."""
SERVICES_V6 = IPv6Network("fd00:10:96::/112")
OPTIONS = {4: "--ip", 6: "--ip6"}
"""What Docker calls a container's address in a network, by family."""


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

    def place(self, node: Node, network: str) -> list[str]:
        """Docker's options for a node's addresses in a network."""
        return _options(node.addresses[network])

    def router_place(self, network: str) -> list[str]:
        """Docker's options for the world's addresses in a network."""
        return _options(self.topology.outside.router[network])

    def networks(self) -> Iterator[list[str]]:
        """Arguments of `docker network create`, the nodes' own network first."""
        for name, network in sorted(self.topology.networks.items(), key=lambda item: item[0] != self.topology.primary):
            yield [
                "--driver=bridge",
                "--ipv6",
                f"--subnet={network.ipv4}",
                f"--gateway={network.ipv4[GATEWAY]}",
                f"--subnet={network.ipv6}",
                f"--gateway={network.ipv6[GATEWAY]}",
                f"--opt=com.docker.network.driver.mtu={network.mtu}",
                # Docker would also masquerade what crosses one of its bridges with a source of another's network, which
                # an egress IP may be. So only the nodes' own network leads out through Docker.
                f"--opt=com.docker.network.bridge.enable_ip_masquerade={str(name == self.topology.primary).lower()}",
                f"--label={LABEL}={self.lab}",
                self.network(name),
            ]

    @property
    def dual(self) -> bool:
        """Whether pods have addresses of both families."""
        return self.datapath is Datapath.EGRESSLAB

    @property
    def pod_ranges(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Pod addresses, IPv4 first."""
        pods = self.topology.pods
        return (pods.ipv4, pods.ipv6) if self.dual else (pods.ipv4,)

    @property
    def service_ranges(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Addresses of services, IPv4 first; topologies know of no IPv6 ones, which Kubernetes insists on."""
        ipv4 = self.topology.services.ipv4
        return (ipv4, SERVICES_V6) if self.dual else (ipv4,)

    def kind_config(self, *, old_cgroups: bool = False) -> dict[str, Any]:
        """The cluster as kind reads it (v1alpha4). `old_cgroups`: Docker's machine has control groups of version 1,
        on which a kubelet of Kubernetes 1.35 and later does not start unasked."""
        file = "cluster-cilium.yaml" if self.datapath is Datapath.CILIUM else "cluster.yaml"
        config: dict[str, Any] = yaml.safe_load((definitions("kind") / file).read_text())
        config["name"] = self.cluster
        config["networking"]["podSubnet"] = ",".join(map(str, self.pod_ranges))
        config["networking"]["serviceSubnet"] = ",".join(map(str, self.service_ranges))
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

    def docker_shim(self, docker: str) -> str:
        """A `docker` that gives nodes their addresses: kind leaves those to Docker, and lessons name them."""
        names, nodes = self.containers(), self.topology.nodes
        places = {names[node.name]: " ".join(self.place(node, self.topology.primary)) for node in nodes}
        cases = "".join(f"    {name}) place='{place}' ;;\n" for name, place in places.items())
        return (
            "#!/bin/sh\n"
            f"# Written by egresslab for lab {self.lab}: kind's `docker run` of a node, with its addresses.\n"
            '[ "$1" = run ] || exec ' + docker + ' "$@"\n'
            "place= before=\n"
            'for word; do\n  if [ "$before" = --name ]; then case $word in\n'
            + cases
            + "  esac; fi\n  before=$word\ndone\n"
            '[ -n "$place" ] || exec ' + docker + ' "$@"\n'
            "shift\n"
            f'exec {docker} run $place --label {LABEL}={self.lab} "$@"\n'
        )

    def world(self) -> dict[str, Any]:
        """What the container of the world outside is told (`egresslab.environments.kind.world`)."""
        outside = self.topology.outside
        carried: dict[str, list[str]] = {"lo": []}
        for name, network in self.topology.networks.items():
            carried[network.interface] = [str(network.interface_of(address)) for address in outside.router[name]]
        for server in outside.servers:
            for address in server.addresses:
                near = self.topology.networks.get(server.network or "")
                if near is None:
                    carried["lo"].append(f"{address}/{address.max_prefixlen}")
                else:
                    carried[near.interface].append(str(near.interface_of(address)))
        return {
            "addresses": carried,
            "outside": {
                "certificate": "/lab/pki/outside.crt",
                "key": "/lab/pki/outside.key",
                "servers": [
                    {
                        "name": server.name,
                        "addresses": [str(address) for address in server.addresses],
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

    def node_routes(self, network: str) -> Iterator[list[str]]:
        """`ip` commands that make the lab's internet reachable from a node by one of its networks: by the nodes' own
        one, and by each other one for packets that are bound to it."""
        outside, described = self.topology.outside, self.topology.networks[network]
        own = network == self.topology.primary
        for router in outside.router[network]:
            family = ("-6",) if router.version == 6 else ("-4",)
            internet = outside.internet.ipv4 if router.version == 4 else outside.internet.ipv6
            way = ("dev", described.interface, "metric", str(described.metric))
            # By the nodes' own network the rest of the world is Docker's; by another one there is the lab's alone.
            far = str(internet) if own else "default"
            yield ["ip", *family, "route", "replace", far, "via", str(router), *way]
            if own and router.version == 6:
                # Docker's own has a metric of 1024 in this family, and would lose against the other networks' ones.
                docker = str(described.ipv6[GATEWAY])
                yield ["ip", *family, "route", "replace", "default", "via", docker, *way]

    def write(self, *, old_cgroups: bool = False) -> None:
        """The files that other programs read: kind's configuration and the world's."""
        config = self.kind_config(old_cgroups=old_cgroups)
        (self.state / "kind.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (self.state / "world.json").write_text(json.dumps(self.world(), indent=1))


def _options(addresses: Iterable[IPv4Address | IPv6Address]) -> list[str]:
    return [word for address in addresses for word in (OPTIONS[address.version], str(address))]
