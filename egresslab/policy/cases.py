"""Behaviour cases as data: a situation, steps that change it, and the rows that one node's map then holds.

A case is a dictionary with `nodes`, `namespaces`, `pods`, `policies`, `steps` and `observer_node`; `rows(case)` gives
the rows. It goes through the same objects, parser and engine as a cluster's own would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from egresslab.errors import PolicyError
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Delete, Refuse, Upsert
from egresslab.policy.inventory import INTERFACES_ANNOTATION, Kind, Ref
from egresslab.policy.model import Dialect
from egresslab.policy.objects import from_kubernetes, ref_of_object
from egresslab.policy.rows import ListedRow, listing
from egresslab.policy.settings import DEFAULTS, Fidelity, Settings

Object = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """What came of a case."""

    rows: list[ListedRow]
    refused: list[PolicyError] = field(default_factory=list)


def rows(case: Mapping[str, Any], settings: Settings = DEFAULTS) -> list[dict[str, str | None]]:
    """The rows in the map of the case's `observer_node`: source, destination, egress_ip, gateway_ip, … as text."""
    return [row.as_dict() for row in run(case, settings).rows]


def run(case: Mapping[str, Any], settings: Settings = DEFAULTS) -> Outcome:
    """Play a case; raises `PolicyError` only for a malformed node, pod or namespace, never for a policy."""
    play = _Play(settings)
    for namespace in case.get("namespaces", ()):
        play.put(namespace_object(namespace))
    for node in case.get("nodes", ()):
        play.put_node(node)
    for pod in case.get("pods", ()):
        play.put_pod(pod)
    for policy in case.get("policies", ()):
        play.put(policy)
    for step in case.get("steps", ()):
        play.step(step)
    engine = play.engine
    return Outcome(listing(engine.entries(), engine.slots(), case["observer_node"]), play.refused)


def objects_of(case: Mapping[str, Any]) -> list[Object]:
    """The case's start as Kubernetes objects, for use as manifests. Steps are not in them."""
    return [
        *map(namespace_object, case.get("namespaces", ())),
        *map(node_object, case.get("nodes", ())),
        *map(pod_object, case.get("pods", ())),
        *case.get("policies", ()),
    ]


def namespace_object(namespace: Mapping[str, Any]) -> Object:
    """A Namespace."""
    metadata = {"name": namespace["name"], "labels": dict(namespace.get("labels") or {})}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def node_object(node: Mapping[str, Any]) -> Object:
    """A Node with the interfaces annotation."""
    metadata: Object = {"name": node["name"], "labels": dict(node.get("labels") or {})}
    if node.get("interfaces") is not None:
        published = {
            interface["name"]: {
                "addresses": list(interface.get("ips") or ()),
                "altnames": list(interface.get("altnames") or ()),
                "default_route": [
                    family
                    for family, key in (("ipv4", "default_route_v4"), ("ipv6", "default_route_v6"))
                    if interface.get(key)
                ],
            }
            for interface in node["interfaces"]
        }
        metadata["annotations"] = {INTERFACES_ANNOTATION: json.dumps(published)}
    addresses = [{"type": "InternalIP", "address": node[key]} for key in ("ip", "ipv6") if node.get(key)]
    ready = "True" if node.get("ready", True) else "False"
    status = {"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}, "status": status}


def pod_object(pod: Mapping[str, Any]) -> Object:
    """A Pod."""
    metadata: Object = {
        "name": pod["name"],
        "namespace": pod.get("namespace") or "default",
        "uid": pod.get("uid"),
        "labels": dict(pod.get("labels") or {}),
    }
    if pod.get("terminating"):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    spec = {"nodeName": pod.get("node"), "hostNetwork": bool(pod.get("host_network") or pod.get("hostNetwork"))}
    ips = [{"ip": pod[key]} for key in ("ip", "ipv6") if pod.get(key)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"podIPs": ips}}


class _Play:
    def __init__(self, settings: Settings) -> None:
        self.engine = Engine(settings)
        self.refused: list[PolicyError] = []
        self._nodes: dict[str, Object] = {}
        self._pods: dict[str, Object] = {}
        self._unnoticed: set[str] = set()
        self._late = settings.fidelity is Fidelity.CILIUM

    def put(self, obj: Object) -> None:
        try:
            value = from_kubernetes(obj)
        except PolicyError as error:
            ref = ref_of_object(obj)
            if ref is None or ref.kind is not Kind.POLICY:
                if obj.get("kind") in ("Pod", "Node", "Namespace"):
                    raise
            else:
                self.engine.apply(Refuse(ref, error.object or ref.name, error.message))
            self.refused.append(error)
            return
        if value is not None:
            self.engine.apply(Upsert(value))

    def put_node(self, node: Mapping[str, Any]) -> None:
        self._nodes[node["name"]] = dict(node)
        self.put(node_object(node))

    def put_pod(self, pod: Mapping[str, Any]) -> None:
        self._pods[_uid(pod)] = dict(pod)
        self.put(pod_object(pod))

    def step(self, step: Mapping[str, Any]) -> None:
        """One change. Cilium resolves addresses anew at policy and node events only, and so does its fidelity."""
        operation = step["op"]
        if operation in ("add_ip", "remove_ip"):
            self._address(step)
            return
        if operation.endswith(("policy", "node", "node_labels", "node_ready")):
            self._notice()
        match operation:
            case "add_pod":
                self.put_pod(step["pod"])
            case "delete_pod":
                self._pods.pop(step["uid"], None)
                self.engine.apply(Delete(Ref(Kind.POD, step["uid"])))
            case "set_pod_labels":
                self.put_pod({**self._pods[step["uid"]], "labels": step["labels"]})
            case "mark_pod_terminating":
                self.put_pod({**self._pods[step["uid"]], "terminating": True})
            case "add_node":
                self.put_node(step["node"])
            case "delete_node":
                self._nodes.pop(step["name"], None)
                self._unnoticed.discard(step["name"])
                self.engine.apply(Delete(Ref(Kind.NODE, step["name"])))
            case "set_node_labels":
                self.put_node({**self._nodes[_name(step)], "labels": step["labels"]})
            case "set_node_ready":
                self.put_node({**self._nodes[_name(step)], "ready": step["ready"]})
            case "set_namespace_labels":
                self.put(namespace_object({"name": _name(step), "labels": step["labels"]}))
            case "apply_policy":
                self.put(step["policy"])
            case "delete_policy":
                self.engine.apply(Delete(Ref(Kind.POLICY, f"{Dialect.CILIUM}/{step['name']}")))
            case _:
                raise ValueError(f"a case knows no step {operation!r}")

    def _address(self, step: Mapping[str, Any]) -> None:
        name = _name(step)
        node = json.loads(json.dumps(self._nodes[name]))
        text = step.get("ip") or step.get("address") or ""
        device = step.get("interface") or step.get("device")
        interfaces = node.setdefault("interfaces", [])
        interface = next((found for found in interfaces if found["name"] == device), None)
        if interface is None:
            interface = {"name": device}
            interfaces.append(interface)
        before = [ip for ip in interface.get("ips") or () if ip.partition("/")[0] != text.partition("/")[0]]
        interface["ips"] = [*before, text] if step["op"] == "add_ip" else before
        self._nodes[name] = node
        if self._late:
            self._unnoticed.add(name)
        else:
            self.put_node(node)

    def _notice(self) -> None:
        for name in sorted(self._unnoticed):
            self.put_node(self._nodes[name])
        self._unnoticed.clear()


def _uid(pod: Mapping[str, Any]) -> str:
    return str(pod.get("uid") or f"{pod.get('namespace') or 'default'}/{pod['name']}")


def _name(step: Mapping[str, Any]) -> str:
    name = step.get("name") or step.get("node") or step.get("namespace")
    return str(name)
