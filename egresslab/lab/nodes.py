"""Nodes and pods as a chapter needs them: names, places and addresses, read from the Kubernetes API.

Values only; what a node's interfaces carry comes from the annotation that the agent publishes
(`egresslab.dev/interfaces`).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from egresslab.api.resources import Object
from egresslab.errors import LabError
from egresslab.lab.entries import IPAddress
from egresslab.lab.waits import Pending

INTERFACES_ANNOTATION = "egresslab.dev/interfaces"
CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class Node:
    """A node; `addresses` are its InternalIPs, `interfaces` what its agent says they carry (primary address first)."""

    name: str
    addresses: tuple[IPAddress, ...]
    interfaces: Mapping[str, tuple[IPInterface, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ready: bool = False

    @property
    def control_plane(self) -> bool:
        """Whether it carries the control plane."""
        return CONTROL_PLANE_LABEL in self.labels

    def address(self, family: int = 4) -> IPAddress:
        """Its InternalIP of that family (4 or 6); `LabError` if it has none."""
        for address in self.addresses:
            if address.version == family:
                return address
        raise LabError(f"has no IPv{family} InternalIP", object=f"node {self.name}")


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that runs; `node` is empty while it is not placed."""

    name: str
    namespace: str
    node: str
    addresses: tuple[IPAddress, ...]

    def __str__(self) -> str:
        where = ", ".join(str(address) for address in self.addresses) or "no address yet"
        return f"{self.namespace}/{self.name} on {self.node or 'no node'} ({where})"

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:
        printer.text(str(self))  # type: ignore[attr-defined]  # IPython's pretty printer


def node(body: Object) -> Node:
    """A `Node` from the API's object; an annotation that is not there or not understood leaves `interfaces` empty."""
    metadata, status = body["metadata"], body.get("status") or {}
    addresses = tuple(
        ipaddress.ip_address(entry["address"])
        for entry in status.get("addresses") or []
        if entry["type"] == "InternalIP"
    )
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions") or []}
    return Node(
        metadata["name"],
        addresses,
        _interfaces((metadata.get("annotations") or {}).get(INTERFACES_ANNOTATION, "")),
        metadata.get("labels") or {},
        conditions.get("Ready") == "True",
    )


def _interfaces(text: str) -> dict[str, tuple[IPInterface, ...]]:
    try:
        published = json.loads(text) if text else {}
        return {
            name: tuple(ipaddress.ip_interface(address) for address in entry["addresses"])
            for name, entry in published.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def pod(body: Object) -> Pod:
    """A `Pod` from the API's object."""
    metadata, status = body["metadata"], body.get("status") or {}
    addresses = tuple(ipaddress.ip_address(entry["ip"]) for entry in status.get("podIPs") or [] if entry.get("ip"))
    return Pod(metadata["name"], metadata["namespace"], body.get("spec", {}).get("nodeName", ""), addresses)


def all_ready(known: tuple[Node, ...]) -> tuple[Node, ...] | Pending:
    """The nodes, once all of them are Ready."""
    missing = [node.name for node in known if not node.ready]
    return known if known and not missing else Pending(f"not Ready: {', '.join(missing) or 'no nodes at all'}")


def ready(body: Object) -> bool:
    """Whether the pod's Ready condition holds."""
    conditions = (body.get("status") or {}).get("conditions") or []
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def phase(body: Object) -> str:
    """Why a pod is where it is, in a few words: its phase, and what its containers wait for or ended with."""
    status = body.get("status") or {}
    parts = [status.get("phase", "no status")]
    for container in status.get("containerStatuses") or []:
        for state in (container.get("state") or {}).values():
            parts += [text for text in (state.get("reason"), state.get("message")) if text]
    return ": ".join(parts)
