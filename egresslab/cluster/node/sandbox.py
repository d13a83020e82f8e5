"""A pod's sandbox: its folder, its record, its network. It is there before the first container and goes after the last.

The record is written before anything is made in the kernel, so that whoever comes later knows what to remove.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import orjson
from pyroute2 import AsyncIPRoute

from egresslab.api.resources import Object
from egresslab.cluster.node import links
from egresslab.cluster.node.addresses import AddressPool, gateway
from egresslab.cluster.node.config import Address, NodeConfig
from egresslab.cluster.node.containers import write_private
from egresslab.cluster.node.links import PodLink
from egresslab.cluster.node.variables import hosts_file, resolver_file
from egresslab.errors import ClusterError

RECORD = "pod.json"
HOSTNAME_LIMIT = 63
NETWORK_ANNOTATION = "egresslab.dev/network-namespace"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One pod on this node; `link` is None in the node's own network. `created_ns` in nanoseconds of the epoch."""

    uid: str
    namespace: str
    name: str
    link: PodLink | None
    created_ns: int

    def plugin_body(self, labels: dict[str, str]) -> dict[str, object]:
        """What network plug-ins are told of the pod."""
        assert self.link is not None
        return {
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
            "ips": [str(address) for address in self.link.addresses],
            "netns": str(self.link.path),
            "host_interface": self.link.host_interface,
            "labels": labels,
        }


def write_record(directory: Path, sandbox: Sandbox) -> None:
    """Remember a sandbox."""
    link = sandbox.link
    data: Object = {"uid": sandbox.uid, "namespace": sandbox.namespace, "name": sandbox.name}
    data["created_ns"] = sandbox.created_ns
    data["link"] = link and {
        "namespace": link.namespace,
        "host_interface": link.host_interface,
        "addresses": [str(address) for address in link.addresses],
    }
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_private(directory / RECORD, orjson.dumps(data))


def read_record(directory: Path) -> Sandbox | None:
    """The sandbox of a pod's folder, or None when it never came to be."""
    try:
        data = orjson.loads((directory / RECORD).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    link = data["link"]
    if link is not None:
        addresses = tuple(ip_address(address) for address in link["addresses"])
        link = PodLink(link["namespace"], link["host_interface"], addresses)
    return Sandbox(data["uid"], data["namespace"], data["name"], link, data["created_ns"])


def sandboxes(config: NodeConfig) -> Iterator[tuple[Path, Sandbox | None]]:
    """Folders of all pods that this node has or had, with what is known of them."""
    if config.pods.is_dir():
        for directory in sorted(config.pods.iterdir()):
            yield directory, read_record(directory)


def used_addresses(config: NodeConfig) -> set[Address]:
    """Addresses of all recorded pods."""
    links_ = (sandbox.link for _, sandbox in sandboxes(config) if sandbox is not None)
    return {address for link in links_ if link is not None for address in link.addresses}


def hostname(pod: Object, node: str) -> str:
    """What a pod's containers call their host."""
    if pod["spec"].get("hostNetwork"):
        return node
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:HOSTNAME_LIMIT].rstrip("-.")


def host_namespace(config: NodeConfig, pod: Object) -> Path | None:
    """The namespace that a hostNetwork pod asks for by annotation; None for the node's own.

    Raises `ClusterError` for one that this node does not offer.
    """
    wanted = (pod["metadata"].get("annotations") or {}).get(NETWORK_ANNOTATION)
    if wanted is None or not pod["spec"].get("hostNetwork"):
        return None
    if wanted not in config.host_networks:
        raise ClusterError(
            "this node offers no such network namespace",
            object=f"Pod/{pod['metadata']['name']}",
            field=f"metadata.annotations[{NETWORK_ANNOTATION}]",
            value=wanted,
            fix=f"one of: {', '.join(sorted(config.host_networks)) or 'none here'}",
        )
    return config.host_networks[wanted]


def settings(pod: Object) -> dict[str, str]:
    """Sysctls that a pod asks for, as paths below /proc/sys."""
    context = pod["spec"].get("securityContext") or {}
    return {item["name"].replace(".", "/"): str(item["value"]) for item in context.get("sysctls") or []}


async def create(config: NodeConfig, host: AsyncIPRoute, pool: AddressPool, pod: Object) -> Sandbox:
    """Make a pod's sandbox; raises `ClusterError`."""
    metadata = pod["metadata"]
    uid = metadata["uid"]
    directory = config.pods / uid
    host_namespace(config, pod)
    link = None
    if not pod["spec"].get("hostNetwork"):
        addresses = pool.take(used_addresses(config))
        link = PodLink(config.pod_namespace(uid), links.host_interface(uid), addresses)
    sandbox = Sandbox(uid, metadata["namespace"], metadata["name"], link, time.time_ns())
    write_record(directory, sandbox)
    # Files of an earlier sandbox name its addresses.
    shutil.rmtree(directory / "etc", ignore_errors=True)
    if link is not None:
        gateways = [gateway(network) for network in config.pod_cidrs]
        await links.remove_link(host, link)
        await links.create_link(host, uid, link, gateways, settings(pod))
    return sandbox


def write_files(config: NodeConfig, pod: Object, sandbox: Sandbox) -> dict[str, Path]:
    """The pod's files in /etc: path in its containers -> path on the node."""
    folder = config.pods / sandbox.uid / "etc"
    folder.mkdir(exist_ok=True)
    name = hostname(pod, config.name)
    addresses = sandbox.link.addresses if sandbox.link else config.internal_addresses
    contents = {
        "hosts": hosts_file(pod, name, [str(address) for address in addresses]),
        "resolv.conf": resolver_file(pod, str(config.dns.address), config.dns.domain),
        "hostname": name + "\n",
    }
    for file, content in contents.items():
        if not (folder / file).exists():
            (folder / file).write_text(content)
    return {f"/etc/{file}": folder / file for file in contents}


async def is_intact(host: AsyncIPRoute, sandbox: Sandbox) -> bool:
    """Whether the sandbox is still in the kernel: a node that was down has lost it."""
    return sandbox.link is None or await links.link_exists(host, sandbox.link)


async def destroy(config: NodeConfig, host: AsyncIPRoute, uid: str, sandbox: Sandbox | None) -> None:
    """Remove a pod's network and files; its containers have ended."""
    if sandbox is not None and sandbox.link is not None:
        await links.remove_link(host, sandbox.link)
    shutil.rmtree(config.pods / uid, ignore_errors=True)
