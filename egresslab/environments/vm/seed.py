"""What tells a machine which node it is: name, networks, the kubelet's configuration and keys, as a tar archive.

The machine reads it from a disk at every start, so nothing of a node is ever written into its root file system. The
archive holds secrets and is for root alone.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from egresslab.environments.netns.fabric import NamespacePlan, plan_node
from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.topology import Node, Topology
from egresslab.environments.vm.system import PROJECT

HERE = PurePosixPath("/run/egresslab")
"""Where the machine unpacks it."""
STATE = PurePosixPath("/var/lib/egresslab")
SECTOR = 512


def write_seed(paths: LabPaths, topology: Topology, node: Node) -> Path:
    """Write the archive of a node whose configuration is written; returns its path."""
    config = json.loads(paths.node_config(node.name).read_text())
    network = plan_node(topology, paths, node)
    files = {
        "hostname": f"{node.name}\n",
        "hosts": _hosts(topology, node),
        "links": links(network),
        "sysctls": settings(network),
        "network": addresses(network),
        "config.json": json.dumps(inside(config), indent=1),
        "ca.crt": Path(config["api"]["ca"]).read_text(),
        "kubelet.crt": Path(config["kubelet"]["certificate"]).read_text(),
        "kubelet.key": Path(config["kubelet"]["key"]).read_text(),
    }
    seed = paths.node(node.name) / "seed.tar"
    write_atomically(seed, _archive(files), mode=0o600)
    return seed


def inside(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a node that has a machine to itself: its root is the machine's."""
    return {
        **config,
        "network_namespace": None,
        "host_networks": {},
        "root": "/",
        "state": str(STATE),
        "images": str(PROJECT / "environments" / "netns" / "images.yaml"),
        "ca_bundle": str(HERE / "ca.crt"),
        "api": {**config["api"], "ca": str(HERE / "ca.crt")},
        "kubelet": {
            **config["kubelet"],
            "certificate": str(HERE / "kubelet.crt"),
            "key": str(HERE / "kubelet.key"),
        },
    }


def links(network: NamespacePlan) -> str:
    """For ip(8): the kernel's names of the cards, in the order they are plugged in, become those of the topology."""
    count = range(len(network.links))
    lines = [f"link set dev eth{number} name card{number}" for number in count]
    lines += [f"link set dev card{number} name {network.links[number].name}" for number in count]
    return _lines(lines)


def settings(network: NamespacePlan) -> str:
    """Sysctls, a name below /proc/sys and a value a line. The cards are there by then, so `default` is set for them."""
    lines = []
    for name, value in network.sysctls.items():
        lines.append(f"{name} {value}")
        if "/default/" in name:
            lines += [f"{name.replace('/default/', f'/{link.name}/')} {value}" for link in network.links]
    return _lines(lines)


def addresses(network: NamespacePlan) -> str:
    """For ip(8): every link up, its addresses, the routes."""
    lines = ["link set dev lo up"]
    lines += [f"link set dev {link.name} mtu {link.mtu} up" for link in network.links]
    lines += [f"address add {address} dev {link}" for link, address in network.addresses]
    for route in network.routes:
        metric = f" metric {route.metric}" if route.metric is not None else ""
        lines.append(f"route add {route.destination} via {route.via} dev {route.link}{metric}")
    return _lines(lines)


def _hosts(topology: Topology, node: Node) -> str:
    own = " ".join(["127.0.1.1", node.name])
    return _lines(["127.0.0.1 localhost", "::1 localhost ip6-localhost", own])


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            data = content.encode()
            member.size, member.mode = len(data), 0o600
            archive.addfile(member, io.BytesIO(data))
    raw = buffer.getvalue()
    return raw + b"\0" * (-len(raw) % SECTOR)
