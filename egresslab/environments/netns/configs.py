"""Configuration files of the lab's processes, and the plan that tells the supervisor what to run.

The schema of each file is the model in the module that reads it; this is the only place that fills them in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from egresslab.cluster.assets import API_SERVER, ETCD, Assets, Place
from egresslab.cluster.assets import inside as inside_namespace
from egresslab.environments.definitions import definitions
from egresslab.environments.netns.credentials import Identities, write_kubeconfig
from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.paths import OUTSIDE, LabPaths
from egresslab.environments.netns.topology import Node, Topology

CONTROL_PLANE = "control-plane"
FAULTS = "faults"
API_PORT_INSIDE = 6443


def node_process(node: str) -> str:
    """Name of a node's process."""
    return f"node-{node}"


def inside_server(topology: Topology) -> str:
    """URL of the API server within the lab."""
    return f"https://{topology.internal_addresses(topology.control_plane)[0]}:{API_PORT_INSIDE}"


def write_configs(paths: LabPaths, topology: Topology, identities: Identities, api_port: int) -> dict[str, list[str]]:
    """Write every process's configuration; returns the supervisor's plan: process name -> command."""
    authority = (paths.pki / "ca.crt").read_bytes()
    write_kubeconfig(paths.kubeconfig, paths.lab, f"https://127.0.0.1:{api_port}", authority, identities.administrator)
    inside = inside_server(topology)
    write_kubeconfig(paths.root / "outside.kubeconfig", paths.lab, inside, authority, identities.outside)
    write_kubeconfig(paths.root / "controllers.kubeconfig", paths.lab, inside, authority, identities.controllers)
    _write(paths.root / "control-plane.json", _control_plane(paths, topology, identities, api_port))
    _write(paths.root / "outside.json", _outside(paths, topology))
    python = [sys.executable, "-m"]
    plan = {
        CONTROL_PLANE: [*python, "egresslab.cluster.controlplane", "--config", str(paths.root / "control-plane.json")]
    }
    assets = Assets.find()
    if assets is not None:
        # Its own processes, in the control plane's namespace; ours beside them runs the controllers.
        place, namespace = _place(paths, topology), paths.namespace(topology.control_plane.name)
        plan[ETCD] = inside_namespace(namespace, assets.etcd(place))
        plan[API_SERVER] = inside_namespace(namespace, assets.api_server(place))
    for node in topology.nodes:
        _write(paths.node_config(node.name), _node(paths, topology, identities, node))
        plan[node_process(node.name)] = [
            *python,
            "egresslab.cluster.node",
            "--config",
            str(paths.node_config(node.name)),
        ]
    plan[OUTSIDE] = [*python, "egresslab.cluster.outside", "--config", str(paths.root / "outside.json")]
    plan[FAULTS] = [*python, "egresslab.environments.netns.faultkeeper", "--lab", paths.lab]
    return plan


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1), mode=0o600)


def _place(paths: LabPaths, topology: Topology) -> Place:
    address = str(topology.internal_addresses(topology.control_plane)[0])
    return Place(paths.root, paths.pki, paths.tokens, address, API_PORT_INSIDE, services=str(topology.services.ipv4))


def _control_plane(paths: LabPaths, topology: Topology, identities: Identities, api_port: int) -> dict[str, Any]:
    node = topology.control_plane
    return {
        "lab": paths.lab,
        "state": str(paths.root / "state.sqlite"),
        "host_bind": f"127.0.0.1:{api_port}",
        "netns": paths.namespace(node.name),
        "upstream" if Assets.find() else "node_bind": f"{topology.internal_addresses(node)[0]}:{API_PORT_INSIDE}",
        "tls": {
            "cert": str(paths.pki / "apiserver.crt"),
            "key": str(paths.pki / "apiserver.key"),
            "ca": str(paths.pki / "ca.crt"),
        },
        "tokens": str(paths.tokens),
        "kubelet_token": identities.api_server.token,
        "service_cidr": str(topology.services.ipv4),
        "kubeconfig": str(paths.root / "controllers.kubeconfig"),
    }


def _node(paths: LabPaths, topology: Topology, identities: Identities, node: Node) -> dict[str, Any]:
    authority = str(paths.pki / "ca.crt")
    external: list[IPv4Address | IPv6Address] = []
    for network, addresses in node.addresses.items():
        external += addresses if network != topology.network_of(node) else ()
    external.sort(key=lambda address: address.version)
    records = {name: _texts(server.addresses) for server in topology.outside.servers for name in server.names}
    return {
        "lab": paths.lab,
        "name": node.name,
        "network_namespace": str(paths.namespace_file(node.name)),
        # So that packets outside can be captured through Kubernetes alone (docs/outside.md).
        "host_networks": {OUTSIDE: str(paths.namespace_file(OUTSIDE))} if node == topology.control_plane else {},
        "root": str(paths.node_root(node.name)),
        "state": str(paths.node(node.name)),
        "labels": node.labels,
        "annotations": node.annotations,
        "taints": [taint.model_dump() for taint in node.taints],
        "internal_addresses": _texts(topology.internal_addresses(node)),
        "external_addresses": _texts(external),
        "pod_cidrs": _texts(topology.pod_subnets(node)),
        "peers": [
            {
                "name": peer.name,
                "pod_cidrs": _texts(topology.pod_subnets(peer)),
                "internal_addresses": _texts(topology.internal_addresses(peer)),
            }
            for peer in topology.nodes
            if peer != node
        ],
        # Not the nodes' own networks: the server outside that the tutorials name is on one of them.
        "cluster_cidrs": _texts((topology.pods.ipv4, topology.pods.ipv6, topology.services.ipv4)),
        "service_cidr": str(topology.services.ipv4),
        "dns": {"address": str(topology.services.dns), "records": records},
        "api": {
            "url": inside_server(topology),
            "token": identities.nodes[node.name].token,
            "ca": authority,
        },
        "kubelet": {
            "certificate": str(paths.pki / f"kubelet-{node.name}.crt"),
            "key": str(paths.pki / f"kubelet-{node.name}.key"),
            "token": identities.api_server.token,
        },
        "images": str(definitions("netns") / "images.yaml"),
        "ca_bundle": authority,
        "environment": _api_variables(inside_server(topology)),
    }


def _api_variables(url: str) -> dict[str, str]:
    """What a kubelet tells containers of the API server (Kubernetes, "Accessing the API from a Pod")."""
    parts = urlsplit(url)
    return {"KUBERNETES_SERVICE_HOST": str(parts.hostname), "KUBERNETES_SERVICE_PORT": str(parts.port)}


def _texts(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values]


def firewall_log(paths: LabPaths, topology: Topology) -> str:
    """Where the firewall outside writes: below the root of the control plane's node, so that a pod can show it."""
    return str(paths.node_root(topology.control_plane.name) / "var" / "log" / "outside" / "firewall.log")


def _outside(paths: LabPaths, topology: Topology) -> dict[str, Any]:
    outside = topology.outside
    return {
        "network_namespace": str(paths.namespace_file(OUTSIDE)),
        "certificate": str(paths.pki / "outside.crt"),
        "key": str(paths.pki / "outside.key"),
        "servers": [
            {"name": s.name, "addresses": _texts(s.addresses), "names": list(s.names)} for s in outside.servers
        ],
        "http_port": outside.http_port,
        "https_port": outside.https_port,
        "echo_port": outside.echo_port,
        "kubeconfig": str(paths.root / "outside.kubeconfig"),
        "firewall_log": firewall_log(paths, topology),
    }
