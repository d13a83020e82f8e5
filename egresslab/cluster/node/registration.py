"""The node in the API: its Node object, its heartbeat (a Lease), and its word that it is ready.

An existing Node keeps what users have changed: only what a node knows about itself is written again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from egresslab.api.connection import Api, ApiError, PatchType, Unreachable
from egresslab.api.resources import LEASES, NODES, Object
from egresslab.cluster.events import now
from egresslab.cluster.node.config import NodeConfig
from egresslab.cluster.node.images import find_program

logger = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
KUBELET_VERSION = "v1.37.0"
POD_LIMIT = 110
RETRY_S = 0.5
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@cache
def system_facts() -> Object:
    """`status.nodeInfo`: this machine, and the runtime that containers are made with."""
    release = platform.freedesktop_os_release()
    launcher = find_program("bwrap")
    version = "unknown"
    if launcher is not None:
        answer = subprocess.run([launcher, "--version"], capture_output=True, text=True, timeout=10, check=False)
        version = answer.stdout.split()[-1] if answer.stdout.split() else version
    machine = Path("/etc/machine-id")
    machine_id = machine.read_text().strip() if machine.exists() else ""
    return {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "bootID": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "containerRuntimeVersion": f"bubblewrap://{version}",
        "kernelVersion": platform.release(),
        "kubeProxyVersion": "",
        "kubeletVersion": KUBELET_VERSION,
        "machineID": machine_id,
        "operatingSystem": "linux",
        "osImage": release.get("PRETTY_NAME", "Linux"),
        "systemUUID": machine_id,
    }


def _memory_kib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1])
    return 0


def own_labels(config: NodeConfig) -> dict[str, str]:
    """Labels that every kubelet sets."""
    facts = system_facts()
    both = {"arch": facts["architecture"], "os": facts["operatingSystem"]}
    labels = {f"{prefix}kubernetes.io/{key}": value for prefix in ("", "beta.") for key, value in both.items()}
    return labels | {"kubernetes.io/hostname": config.name}


def own_networks(config: NodeConfig) -> Object:
    """The part of a Node's spec that says which networks its pods are in; empty where it has none."""
    cidrs = [str(network) for network in config.pod_cidrs]
    return {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {}


def node_object(config: NodeConfig) -> Object:
    """A new Node."""
    spec = own_networks(config)
    if config.taints:
        spec["taints"] = [taint.model_dump(exclude_defaults=True) for taint in config.taints]
    metadata = {
        "name": config.name,
        "labels": {**config.labels, **own_labels(config)},
        "annotations": dict(config.annotations),
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}


def node_status(config: NodeConfig, previous: Object) -> Object:
    """`status` of a node that is well; times of conditions that do not change come from `previous`."""
    addresses = [("InternalIP", str(address)) for address in config.internal_addresses]
    addresses += [("ExternalIP", str(address)) for address in config.external_addresses]
    addresses.append(("Hostname", config.name))
    capacity = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{_memory_kib()}Ki",
        "pods": str(POD_LIMIT),
        "ephemeral-storage": "10Gi",
    }
    conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    return {
        "addresses": [{"type": kind, "address": address} for kind, address in addresses],
        "allocatable": capacity,
        "capacity": capacity,
        "conditions": _conditions(previous.get("conditions") or [], conditions),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.kubelet.port}},
        "nodeInfo": system_facts(),
    }


def _conditions(previous: list[Object], wanted: list[tuple[str, str, str, str]]) -> list[Object]:
    moment = now()
    before = {item["type"]: item for item in previous}
    result = []
    for kind, status, reason, message in wanted:
        old = before.get(kind) or {}
        changed = old.get("status") != status
        result.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": moment,
                "lastTransitionTime": moment if changed else old.get("lastTransitionTime", moment),
            }
        )
    kinds = {kind for kind, *_ in wanted}
    return result + [item for item in previous if item["type"] not in kinds]


class Registration:
    """Registers the node and keeps it alive; `run` is its task."""

    def __init__(self, api: Api, config: NodeConfig) -> None:
        self._api = api
        self._config = config
        self._registered = False
        self._doubted = asyncio.Event()

    def learn(self, node: Object | None) -> None:
        """What the API server says of us; when it takes us for dead or forgot us, we speak up at once."""
        conditions = ((node or {}).get("status") or {}).get("conditions") or []
        ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
        if self._registered and not ready:
            self._doubted.set()

    async def run(self) -> None:
        """Register, then heartbeat, until cancelled."""
        while True:
            pause = self._config.heartbeat_s
            try:
                if not self._registered or self._doubted.is_set():
                    self._doubted.clear()
                    await self._register()
                    self._registered = True
                await self._beat()
            except (ApiError, Unreachable) as error:
                logger.warning("no heartbeat: %s", error)
                pause = RETRY_S
            try:
                async with asyncio.timeout(pause):
                    await self._doubted.wait()
            except TimeoutError:
                continue

    async def _register(self) -> None:
        config = self._config
        try:
            node = await self._api.get(NODES, config.name)
            metadata: Object = {"labels": own_labels(config)}
            wanted = own_networks(config)
            spec = {} if node["spec"].get("podCIDRs") == wanted.get("podCIDRs") else wanted
            if spec or any((node["metadata"].get("labels") or {}).get(k) != v for k, v in metadata["labels"].items()):
                await self._api.patch(NODES, config.name, {"metadata": metadata, "spec": spec})
        except ApiError as error:
            if error.status != 404:
                raise
            node = await self._api.create(NODES, node_object(config))
        status = node_status(config, node.get("status") or {})
        await self._api.patch(NODES, config.name, {"status": status}, subresource="status", patch_type=PatchType.MERGE)
        logger.info("node %s is registered and ready", config.name)

    async def _beat(self) -> None:
        name = self._config.name
        spec: dict[str, Any] = {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        try:
            await self._api.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
        except ApiError as error:
            if error.status != 404:
                raise
            lease = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
                "spec": spec,
            }
            await self._api.create(LEASES, lease, LEASE_NAMESPACE)
