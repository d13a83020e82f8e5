"""A made-up lab for checks: nodes and pods as in the default topology, answers and rows as a test wants them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from egresslab.api.resources import Object, Resource
from egresslab.errors import LabError
from egresslab.lab.entries import Entry, Gateway
from egresslab.lab.firewall import Contact, Contacts
from egresslab.lab.nodes import Node, Pod
from egresslab.lab.probes import Answer

WORKERS = {"lab-worker": 11, "lab-worker2": 12, "lab-worker3": 14}


def make_node(name: str, digit: int, **labels: str) -> Node:
    """A node with the addresses that its last digit stands for."""
    return Node(
        name,
        (ipaddress.ip_address(f"192.168.60.{digit}"), ipaddress.ip_address(f"fd00:60::{digit}")),
        {
            "eth0": tuple(map(ipaddress.ip_interface, (f"192.168.60.{digit}/24", f"fd00:60::{digit}/64"))),
            "eth1": tuple(map(ipaddress.ip_interface, (f"172.18.18.{digit}/24", f"fd00:18::{digit}/64"))),
        },
        {"kubernetes.io/hostname": name, **labels},
        ready=True,
    )


def make_pod(name: str, node: str, index: int) -> Pod:
    """A pod with one address of each family."""
    return Pod(
        name, "demo", node, (ipaddress.ip_address(f"10.244.1.{index}"), ipaddress.ip_address(f"fd00:10:244:1::{index}"))
    )


def make_policy(name: str = "first-policy", **gateway: object) -> Object:
    """A policy for 203.0.113.0/24 with lab-worker2 as gateway, unless told otherwise."""
    egress = {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "lab-worker2"}},
        "interface": "eth1",
        **gateway,
    }
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": "client"}}}],
            "destinationCIDRs": ["203.0.113.0/24", "2001:db8:113::/64"],
            "excludedCIDRs": ["203.0.113.20/32"],
            "egressGateway": egress,
        },
    }


@dataclass
class FakeFirewall:
    """A firewall that admits the `listed` addresses and logs every request that `FakeBench` makes."""

    listed: tuple[str, ...] | None = None
    contacts: list[Contact] = field(default_factory=list)

    def allowed(self) -> tuple[ipaddress.IPv4Network, ...] | None:
        return None if self.listed is None else tuple(ipaddress.IPv4Network(entry) for entry in self.listed)

    def log(self) -> Contacts:
        return Contacts(self.contacts)


@dataclass
class FakeBench:
    """What checks may ask of a lab; `sources` says what the outside sees of a pod (absent: its node's address)."""

    pods: Mapping[str, Pod]
    nodes: Sequence[Node]
    policies: list[Object] = field(default_factory=list)
    sources: dict[str, str | None] = field(default_factory=dict)
    rows: list[Entry] = field(default_factory=list)
    firewall: FakeFirewall = field(default_factory=FakeFirewall)
    current_namespace: str = "demo"

    def pod(self, name: str) -> Pod:
        try:
            return self.pods[name]
        except KeyError:
            raise LabError("not found", object=name) from None

    def reach(self, pod: str, url: str) -> Answer:
        family = 6 if "[" in url else 4
        own = next(node for node in self.nodes if node.name == self.pods[pod].node)
        source = self.sources.get(pod, str(own.address(family)))
        if source is None:
            return Answer(url, None, "no answer in time (curl exit code 28)")
        allowed = self.firewall.allowed()
        if allowed is not None:
            address = ipaddress.ip_address(source)
            admitted = any(address in network for network in allowed)
            contact = Contact(datetime.now(UTC), admitted, "tcp", address, "192.168.60.13:80")
            self.firewall.contacts.append(contact)
            if not admitted:
                return Answer(url, None, "connection refused (curl exit code 7)")
        return Answer(url, ipaddress.ip_address(source))

    def map_entries(self, node: str | None = None) -> list[Entry]:
        return [row for row in self.rows if node in (None, row.node)]

    def objects(self, resource: Resource) -> list[Object]:
        return self.policies


@pytest.fixture
def bench() -> FakeBench:
    """Three workers, a client on each."""
    pods = {f"client-{i}": make_pod(f"client-{i}", node, i) for i, node in enumerate(WORKERS, start=1)}
    return FakeBench(pods, [make_node(name, digit) for name, digit in WORKERS.items()])


def right_rows(bench: FakeBench, pod: str) -> list[Entry]:
    """The rows of a pod under `make_policy()`, on every node."""
    rows = []
    gateway = ipaddress.ip_address("192.168.60.12")
    v4, v6 = bench.pod(pod).addresses
    for node in bench.nodes:
        here = node.name == "lab-worker2"
        out4 = ipaddress.ip_address("172.18.18.12" if here else "0.0.0.0")
        out6 = ipaddress.ip_address("fd00:18::12" if here else "::")
        rows += [
            Entry(node.name, v4, ipaddress.ip_network("203.0.113.0/24"), out4, gateway),
            Entry(node.name, v4, ipaddress.ip_network("203.0.113.20/32"), out4, Gateway.EXCLUDED),
            Entry(node.name, v6, ipaddress.ip_network("2001:db8:113::/64"), out6, gateway),
        ]
    return rows
