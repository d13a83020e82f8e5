"""What the outside world consists of; written by the environment, read once at start."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

Address = IPv4Address | IPv6Address


class Server(BaseModel):
    """One server: the name it is known by, its addresses and the names it has a certificate for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    addresses: tuple[Address, ...] = Field(min_length=1)
    names: tuple[str, ...] = ()


class OutsideConfig(BaseModel):
    """Configuration of the process; paths are absolute.

    `network_namespace` is entered at start (absent: stay). `kubeconfig` leads to the API server whose ConfigMap
    outside/firewall rules the firewall (absent: no firewall). `firewall_log` gets a line for every decision.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network_namespace: Path | None = None
    certificate: Path
    key: Path
    servers: tuple[Server, ...]
    http_port: int = 80
    https_port: int = 443
    echo_port: int = 7777
    kubeconfig: Path | None = None
    firewall_log: Path | None = None

    def server_at(self, address: str) -> str:
        """Name of the server with that address, or the address itself (the router's, say)."""
        for server in self.servers:
            if any(str(own) == address for own in server.addresses):
                return server.name
        return address
