"""What the scheduler needs to know of pods and nodes, read from their objects once for each version of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from egresslab.api.resources import Object
from egresslab.cluster.controllers.affinity import Affinity, parse_affinity
from egresslab.cluster.controllers.ownership import controller_of
from egresslab.cluster.controllers.tolerations import Taint, Toleration, parse_taints, parse_tolerations
from egresslab.cluster.quantities import parse_quantity

WILDCARD = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port that a container claims on its node."""

    ip: str
    protocol: str
    port: int

    def clashes(self, other: HostPort) -> bool:
        """Whether two claims exclude each other: same protocol and port, and addresses that are equal or wild."""
        if (self.protocol, self.port) != (other.protocol, other.port):
            return False
        return self.ip == other.ip or WILDCARD in (self.ip, other.ip)


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod as the scheduler sees it; `node` is empty until it is bound. `requests` is in base units, by resource."""

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    owner: str
    node: str
    tolerations: tuple[Toleration, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    affinity: Affinity = field(default_factory=Affinity)
    ports: tuple[HostPort, ...] = ()
    requests: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node as the scheduler sees it; two equal values schedule alike."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    allocatable: Mapping[str, Decimal] = field(default_factory=dict)


def pod_facts(pod: Object) -> PodFacts:
    """Read a Pod object; raises `SelectorError` or `ValueError` for one that an API server would have refused."""
    metadata, spec = pod["metadata"], pod["spec"]
    owner = controller_of(pod)
    containers = spec.get("containers") or ()
    return PodFacts(
        uid=metadata["uid"],
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        owner=owner["uid"] if owner else "",
        node=spec.get("nodeName") or "",
        tolerations=parse_tolerations(spec),
        node_selector=spec.get("nodeSelector") or {},
        affinity=parse_affinity(spec, metadata.get("namespace", "")),
        ports=tuple(
            HostPort(port.get("hostIP") or WILDCARD, port.get("protocol") or "TCP", port["hostPort"])
            for container in containers
            for port in container.get("ports") or ()
            if port.get("hostPort")
        ),
        requests=_requests(spec),
    )


def node_facts(node: Object) -> NodeFacts:
    """Read a Node object."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return NodeFacts(
        name=node["metadata"]["name"],
        labels=node["metadata"].get("labels") or {},
        taints=parse_taints(node),
        unschedulable=bool((node.get("spec") or {}).get("unschedulable")),
        allocatable={name: parse_quantity(value) for name, value in allocatable.items()},
    )


def _requests(spec: Object) -> dict[str, Decimal]:
    """The sum over containers, or a larger single init container (Kubernetes "Resource sharing within containers")."""
    total: dict[str, Decimal] = {}
    for container in spec.get("containers") or ():
        for name, value in _container_requests(container).items():
            total[name] = total.get(name, Decimal(0)) + value
    for container in spec.get("initContainers") or ():
        for name, value in _container_requests(container).items():
            total[name] = max(total.get(name, Decimal(0)), value)
    return total


def _container_requests(container: Object) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    # A limit without a request is a request too.
    given = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: parse_quantity(value) for name, value in given.items()}
