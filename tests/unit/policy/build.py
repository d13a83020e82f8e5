"""Kubernetes objects for tests, in few words."""

from __future__ import annotations

import json
from typing import Any

from egresslab.policy.engine import Engine
from egresslab.policy.entries import Changes, Upsert
from egresslab.policy.objects import from_kubernetes
from egresslab.policy.rows import listing
from egresslab.policy.settings import DEFAULTS, Settings

Object = dict[str, Any]
ETH0 = {"addresses": ["192.168.60.{n}/24", "fd00:60::{n}/64"], "default_route": ["ipv4", "ipv6"]}
ETH1 = {"addresses": ["172.18.18.{n}/24", "fd00:18::{n}/64"]}


def node(name: str, number: int, *, gateway: bool = True, interfaces: Object | None = None, **more: Any) -> Object:
    """A node with eth0 and eth1; `ready`, `cordoned` and further `labels` in `more`."""
    text = json.dumps(interfaces if interfaces is not None else {"eth0": ETH0, "eth1": ETH1})
    labels = {"kubernetes.io/hostname": name, **({"egress": "true"} if gateway else {}), **more.get("labels", {})}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {"egresslab.dev/interfaces": text.replace("{n}", str(number))},
        },
        "spec": {"unschedulable": more.get("cordoned", False), "podCIDRs": [f"10.244.{number}.0/24"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": f"192.168.60.{number}"}],
            "conditions": [{"type": "Ready", "status": "True" if more.get("ready", True) else "Unknown"}],
        },
    }


def pod(name: str, *ips: str, namespace: str = "default", on: str = "worker", labels: Object | None = None) -> Object:
    """A pod with label app=web unless others are given."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "labels": {"app": "web"} if labels is None else labels,
        },
        "spec": {"nodeName": on},
        "status": {"phase": "Running", "podIPs": [{"ip": ip} for ip in ips]},
    }


def namespace(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def cilium(name: str = "p", **spec: Any) -> Object:
    """A CiliumEgressGatewayPolicy for app=web to 203.0.113.0/24 through the nodes labelled egress=true."""
    defaults = {
        "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
        "destinationCIDRs": ["203.0.113.0/24"],
        "egressGateway": {"nodeSelector": {"matchLabels": {"egress": "true"}}},
    }
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {key: value for key, value in {**defaults, **spec}.items() if value is not None},
    }


def gateway(name: str = "out", **spec: Any) -> Object:
    """An EgressGateway of our dialect over the nodes labelled egress=true."""
    return {
        "apiVersion": "egresslab.dev/v1alpha1",
        "kind": "EgressGateway",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {"matchLabels": {"egress": "true"}}, **spec},
    }


def policy(name: str = "p", **spec: Any) -> Object:
    """An EgressGatewayPolicy of our dialect for app=web to 203.0.113.0/24 through gateway `out`."""
    return {
        "apiVersion": "egresslab.dev/v1alpha1",
        "kind": "EgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "egressGatewayName": "out",
            "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "destinationCIDRs": ["203.0.113.0/24"],
            **spec,
        },
    }


def engine(*objects: Object, settings: Settings = DEFAULTS) -> Engine:
    made = Engine(settings)
    for obj in objects:
        tell(made, obj)
    return made


def tell(told: Engine, obj: Object) -> Changes:
    value = from_kubernetes(obj)
    assert value is not None
    return told.apply(Upsert(value))


def rows(told: Engine, on: str | None = None) -> dict[tuple[str, str], tuple[str, str]]:
    """(source, destination) to (egress IP, gateway IP), as node `on` has them, or as each gateway has."""
    listed = listing(told.entries(), told.slots(), on)
    return {(row.source, row.destination): (row.egress_ip, row.gateway_ip) for row in listed}
