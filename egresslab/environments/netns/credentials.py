"""Who may talk to the lab's API server: static tokens, certificates, kubeconfig files.

Every secret file is 0600 from its first byte. The administrator's kubeconfig belongs to whoever called sudo.
"""

from __future__ import annotations

import json
import os
import secrets
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.paths import OUTSIDE, LabPaths
from egresslab.environments.netns.pki import Subject, write_pki
from egresslab.environments.netns.topology import Topology

API_SERVER_CLIENT = "system:apiserver"
LOOPBACK = IPv4Address("127.0.0.1")
API_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of the API server."""

    user: str
    groups: tuple[str, ...]
    token: str

    @classmethod
    def new(cls, user: str, *groups: str) -> Identity:
        """With a fresh token of 128 random bits."""
        return cls(user, groups, secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Identities:
    """All static users of a lab; `nodes` by node name."""

    administrator: Identity
    api_server: Identity
    controllers: Identity
    outside: Identity
    nodes: dict[str, Identity]

    @classmethod
    def new(cls, nodes: Iterable[str]) -> Identities:
        """Fresh tokens for everybody."""
        return cls(
            Identity.new("kubernetes-admin", "system:masters"),
            Identity.new("system:apiserver", "system:masters"),
            Identity.new("system:kube-controller-manager", "system:masters"),
            Identity.new("egresslab:outside"),
            {node: Identity.new(f"system:node:{node}", "system:nodes") for node in nodes},
        )

    def everybody(self) -> tuple[Identity, ...]:
        """All of them."""
        return (self.administrator, self.api_server, self.controllers, self.outside, *self.nodes.values())


def write_tokens(path: Path, identities: Identities) -> None:
    """token,user,uid,"group1,group2" a line (Kubernetes: "Static token file")."""
    lines = [f'{i.token},{i.user},{n},"{",".join(i.groups)}"\n' for n, i in enumerate(identities.everybody(), 1000)]
    write_atomically(path, "".join(lines), mode=0o600)


def write_certificates(paths: LabPaths, topology: Topology) -> None:
    """The authority, and a server certificate for the API server, every kubelet and the servers outside."""
    services = topology.services.ipv4
    addresses: list[IPv4Address | IPv6Address] = [LOOPBACK, services[1]]
    addresses += topology.internal_addresses(topology.control_plane)
    subjects = [Subject("apiserver", "kube-apiserver", (*API_NAMES, "localhost"), tuple(addresses))]
    subjects.append(Subject("apiserver-client", API_SERVER_CLIENT, client=True))
    servers = topology.outside.servers
    names = tuple(dict.fromkeys(name for server in servers for name in server.names))
    far = tuple(address for server in servers for address in server.addresses)
    subjects.append(Subject(OUTSIDE, "the world outside", names, far))
    for node in topology.nodes:
        subjects.append(
            Subject(f"kubelet-{node.name}", f"system:node:{node.name}", (node.name,), topology.internal_addresses(node))
        )
    write_pki(paths.pki, paths.lab, subjects)


def kubeconfig(lab: str, server: str, authority: bytes, identity: Identity) -> str:
    """A kubeconfig file that stands alone (JSON, which is YAML)."""
    name = f"egresslab-{lab}"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {"server": server, "certificate-authority-data": b64encode(authority).decode()},
            }
        ],
        "users": [{"name": f"{name}-{identity.user}", "user": {"token": identity.token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": f"{name}-{identity.user}"}}],
        "current-context": name,
    }
    return json.dumps(content, indent=2) + "\n"


def write_kubeconfig(path: Path, lab: str, server: str, authority: bytes, identity: Identity) -> None:
    """Write a kubeconfig, 0600, owned by the user behind sudo if there is one."""
    write_atomically(path, kubeconfig(lab, server, authority, identity), mode=0o600)
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if uid.isdigit() and gid.isdigit():
        os.chown(path, int(uid), int(gid))
