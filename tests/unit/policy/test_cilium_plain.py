"""The engine against Cilium's algorithm written apart, on made-up clusters where everything may go wrong at once."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from egresslab.policy.cases import run
from egresslab.policy.settings import Fidelity, Settings
from tests.unit.policy.cilium_plain import Case, rows

KEYS = ["app", "tier", "zone", "egress"]
NETWORKS = ["0.0.0.0/0", "1.0.0.0/8", "1.1.0.0/16", "1.2.3.4/32", "::/0", "2001:db8::/32"]
EXCLUDED = ["1.1.1.0/24", "7.0.0.0/8", "2001:db8:1::/48"]


def labels(luck: Random, most: int = 2) -> dict[str, str]:
    return {key: luck.choice("ab") for key in luck.sample(KEYS, luck.randint(0, most))}


def selector(luck: Random, *more: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if luck.random() < 0.3:
        found["matchLabels"] = dict(luck.sample([(luck.choice(KEYS), luck.choice("ab"))], luck.randint(0, 1)))
    if luck.random() < 0.3:
        found["matchExpressions"] = [expression(luck, *more) for _ in range(luck.randint(0, 2))]
    return found


def expression(luck: Random, *more: str) -> dict[str, Any]:
    operator = luck.choice(["In", "NotIn", "Exists", "DoesNotExist"])
    values = {"values": luck.sample(["a", "b", "red", "blue"], 2)} if operator in ("In", "NotIn") else {}
    return {"key": luck.choice([*KEYS, *more]), "operator": operator, **values}


def interface(luck: Random, node: int, number: int) -> dict[str, Any]:
    ips = [f"10.{node}.{number}.7/24", f"172.20.{number}.{node}/24", f"8.{node}.8.{number}/24", "fe80::1/64"]
    ips += [f"fd0{number}::{node}/64", f"2001:db8:{number}::{node}/64"]
    return {
        "name": f"eth{number}",
        "ips": luck.sample(ips, luck.randint(0, 5)),
        "altnames": luck.sample([f"alt{number}"], luck.randint(0, 1)),
        "default_route_v4": luck.random() < 0.5,
        "default_route_v6": luck.random() < 0.5,
    }


def gateway(luck: Random, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    carried = [ip.partition("/")[0] for node in nodes for each in node["interfaces"] for ip in each["ips"]]
    source: dict[str, str] = luck.choice(
        [
            {},
            {"interface": luck.choice(["eth0", "eth1", "alt0", "alt1", "none"])},
            {"egressIP": luck.choice([*(ip for ip in carried if not ip.startswith("fe80")), "9.9.9.9", "fd99::1"])},
        ]
    )
    return {"nodeSelector": selector(luck), **source}


def policy(luck: Random, name: str, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    entries = []
    for _ in range(luck.choice([0, 1, 1, 2, 3])):
        parts = {
            "podSelector": selector(luck, "io.kubernetes.pod.namespace"),
            "namespaceSelector": selector(luck, "kubernetes.io/metadata.name"),
            "nodeSelector": selector(luck),
        }
        alone = luck.choice(["podSelector", "podSelector", "namespaceSelector", "nodeSelector"])
        chosen = luck.choice([{alone}, {alone}, {"podSelector", "nodeSelector"}, parts.keys()])
        entries.append({part: parts[part] for part in parts if part in chosen})
    spec = {
        "selectors": entries,
        "destinationCIDRs": luck.sample(NETWORKS, luck.choice([0, 1, 1, 2, 3, 4])),
        "excludedCIDRs": luck.sample(EXCLUDED, luck.randint(0, 2)),
        "egressGateway": gateway(luck, nodes),
        "egressGateways": [gateway(luck, nodes) for _ in range(luck.choice([0, 0, 1, 2, 3]))],
    }
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }


def world(luck: Random) -> Case:
    names = luck.sample(["n1", "n10", "n2", "N3", "m"], luck.randint(1, 4))
    nodes = [
        {
            "name": name,
            "ip": luck.choice([f"192.168.{luck.randint(0, 30)}.{number}"] * 6 + [f"2001:db8:f::{number}"]),
            "labels": labels(luck, 3),
            "interfaces": [interface(luck, number, each) for each in range(luck.randint(0, 3))],
            "ready": luck.random() < 0.7,
        }
        for number, name in enumerate(names, start=1)
    ]
    pods = []
    for number in range(luck.randint(1, 4)):
        addresses = {"ip": f"10.0.0.{number + 1}", "ipv6": f"fd00::{number + 1}"}
        own = {
            "name": f"p{number}",
            "namespace": luck.choice(["red", "blue"]),
            "labels": labels(luck),
            "node": luck.choice([*names, "unknown"]),
            "uid": f"{luck.getrandbits(32):08x}-{number}",
        }
        pods.append(own | {key: addresses[key] for key in luck.sample(list(addresses), luck.randint(0, 2))})
    return {
        "nodes": nodes,
        "namespaces": [
            {"name": name, "labels": labels(luck) | {"kubernetes.io/metadata.name": name}} for name in ("red", "blue")
        ],
        "pods": pods,
        "policies": [policy(luck, name, nodes) for name in luck.sample(["p", "q", "r"], luck.randint(1, 3))],
        "steps": [],
        "observer_node": luck.choice([min(names), *names, "elsewhere"]),
    }


@pytest.mark.parametrize("fidelity", Fidelity)
@pytest.mark.parametrize("seed", range(2))
def test_the_same_rows(seed: int, fidelity: Fidelity) -> None:
    luck = Random(seed)
    translated = 0
    for number in range(100):
        case = world(luck)
        listed = run(case, Settings(fidelity=fidelity)).rows
        found = {(row.source, row.destination): (row.egress_ip, row.gateway_ip, row.egress_interface) for row in listed}
        cilium = fidelity is Fidelity.CILIUM
        assert found == rows(case, pooled=cilium, sort=cilium), f"cluster {number} of seed {seed}: {case}"
        translated += sum(egress not in ("0.0.0.0", "::") for egress, _, _ in found.values())
    assert translated > 10, "made-up clusters that translate nothing prove nothing"
