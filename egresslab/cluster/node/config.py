"""What a node consists of; written by the environment, read once at start.

Nothing in here changes while the process runs, and nothing else tells the node about the machine it is on.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from egresslab.errors import ClusterError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
NAMESPACES = Path("/run/netns")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Taint(_Model):
    """A taint that the node is registered with."""

    key: str
    value: str = ""
    effect: str


class Peer(_Model):
    """Another node: where its pods are. Only until the API server has been heard."""

    name: str
    pod_cidrs: tuple[Network, ...]
    internal_addresses: tuple[Address, ...]


class Dns(_Model):
    """The cluster's DNS: `address` is put on the loopback link, `records` are names of the world outside."""

    address: IPv4Address = IPv4Address("10.96.0.10")
    domain: str = "cluster.local"
    records: dict[str, tuple[Address, ...]] = {}


class Api(_Model):
    """The way to the API server; `ca` is also what pods find beside their token."""

    url: str
    token: str = Field(repr=False)
    ca: Path


class Kubelet(_Model):
    """The HTTPS server for exec, attach and logs, on every internal address; it takes this one bearer token."""

    certificate: Path
    key: Path
    token: str = Field(repr=False)
    port: int = 10250


class NodeConfig(_Model):
    """Configuration of the process; paths are absolute, durations are seconds.

    `root` is what containers see as the host's root (a hostPath volume P is `root/P`), `state` holds `pods/UID/`
    and what else the node remembers. `host_networks` are namespaces, by name, that a hostNetwork pod may ask for
    instead of the node's own (annotation `egresslab.dev/network-namespace`). `labels`, `annotations` and `taints`
    are given to a new Node object only. Traffic of pods to `cluster_cidrs` keeps its source address, all other is
    hidden behind the node. `ca_bundle` is a file of certificates that pods trust. `environment` is put into every
    container.
    """

    lab: str
    name: str
    network_namespace: Path | None = None
    host_networks: dict[str, Path] = {}
    root: Path
    state: Path
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()
    internal_addresses: tuple[Address, ...] = Field(min_length=1)
    external_addresses: tuple[Address, ...] = ()
    pod_cidrs: tuple[Network, ...] = ()
    peers: tuple[Peer, ...] = ()
    cluster_cidrs: tuple[Network, ...] = ()
    service_cidr: Network = IPv4Network("10.96.0.0/16")
    dns: Dns = Dns()
    api: Api
    kubelet: Kubelet
    images: Path
    ca_bundle: Path | None = None
    environment: dict[str, str] = {}
    heartbeat_s: float = Field(default=10.0, gt=0)

    @property
    def pods(self) -> Path:
        """One directory for each pod, named after its UID."""
        return self.state / "pods"

    def pod_namespace(self, uid: str) -> str:
        """Name of a pod's network namespace."""
        return f"egresslab-{self.lab}-pod-{uid[:8]}"


def load_config(path: Path) -> NodeConfig:
    """Read the configuration; raises `ClusterError` naming the file and the field."""
    try:
        return NodeConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ClusterError(f"cannot be read: {error.strerror}", object=str(path)) from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise ClusterError(first["msg"], object=str(path), field=".".join(map(str, first["loc"]))) from error
