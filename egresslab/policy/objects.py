"""Kubernetes objects into values.

Kinds that decisions do not need give None; what is malformed raises `PolicyError` and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any

from egresslab.errors import PolicyError
from egresslab.policy.dialects import cilium, deckhouse, egresslab
from egresslab.policy.fields import Fields, open_object, printable
from egresslab.policy.inventory import (
    HEALTH_ANNOTATION,
    INTERFACES_ANNOTATION,
    NAMESPACE_NAME_LABEL,
    Interface,
    Kind,
    Namespace,
    Node,
    Pod,
    Ref,
    Value,
)
from egresslab.policy.model import Address, Dialect

FINISHED = frozenset({"Succeeded", "Failed"})

Parser = Callable[[object, list[str] | None], Value]

POLICIES: Mapping[tuple[str, str], Parser] = {
    (Dialect.CILIUM, cilium.KIND): cilium.parse_policy,
    (Dialect.DECKHOUSE, "EgressGatewayPolicy"): deckhouse.parse_policy,
    (Dialect.EGRESSLAB, "EgressGatewayPolicy"): egresslab.parse_policy,
}
GATEWAYS: Mapping[tuple[str, str], Parser] = {
    (Dialect.DECKHOUSE, "EgressGateway"): deckhouse.parse_gateway,
    (Dialect.EGRESSLAB, "EgressGateway"): egresslab.parse_gateway,
}
CORE = (("v1", "Pod"), ("v1", "Namespace"), ("v1", "Node"))
REMOVED: Mapping[tuple[str, str], str] = {
    ("cilium.io/v2alpha1", "CiliumEgressNATPolicy"): "use CiliumEgressGatewayPolicy of cilium.io/v2",
}


def from_kubernetes(obj: object, leftovers: list[str] | None = None) -> Value | None:
    """The value of one decoded object; `leftovers` collects the paths of fields that nobody read.

    Raises `PolicyError` naming object, field, value and fix, and nothing else.
    """
    kind = kind_of(obj)
    parser = POLICIES.get(kind) or GATEWAYS.get(kind)
    if parser is not None:
        return parser(obj, leftovers)
    if kind in REMOVED:
        raise PolicyError("no cluster serves this kind any more", object="/".join(kind), fix=REMOVED[kind])
    if kind == ("v1", "Pod"):
        return parse_pod(obj)
    if kind == ("v1", "Namespace"):
        return parse_namespace(obj)
    if kind == ("v1", "Node"):
        return parse_node(obj)
    _refuse_other_versions(obj, *kind)
    return None


def _refuse_other_versions(obj: object, version: str, kind: str) -> None:
    """A kind that we know in a version that we do not: passed over, it would be a policy that silently does nothing."""
    known = [own for own, name in (*POLICIES, *GATEWAYS, *CORE) if name == kind]
    groups = {own.rpartition("/")[0] for own in known}
    if known and (not version or version.rpartition("/")[0] in groups):
        fields, _ = open_object(obj, kind)
        raise fields.refusal(
            "apiVersion", "no such version of this kind", value=version or None, fix=f"write {' or '.join(known)}"
        )


def kind_of(obj: object) -> tuple[str, str]:
    """(apiVersion, kind) of a decoded object; empty strings where it has none."""
    if not isinstance(obj, Mapping):
        return "", ""
    version, kind = obj.get("apiVersion"), obj.get("kind")
    return version if isinstance(version, str) else "", kind if isinstance(kind, str) else ""


def ref_of_object(obj: object) -> Ref | None:
    """Identity of the value that an object would give, also when it is refused; None for what has no identity."""
    version, kind = kind_of(obj)
    metadata = obj.get("metadata") if isinstance(obj, Mapping) else None
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not isinstance(metadata, Mapping):
        return None
    if (version, kind) in POLICIES:
        return Ref(Kind.POLICY, f"{version}/{name}")
    if (version, kind) in GATEWAYS:
        return Ref(Kind.GROUP, f"{version}/{name}")
    if version == "v1" and kind == "Pod":
        uid = metadata.get("uid")
        return Ref(Kind.POD, str(uid or f"{metadata.get('namespace') or 'default'}/{name}"))
    if version == "v1" and kind in ("Node", "Namespace"):
        return Ref(Kind(kind), name)
    return None


def parse_pod(obj: object) -> Pod:
    """A Pod. One without `metadata.uid`, as in a manifest, goes by namespace and name."""
    fields, metadata = open_object(obj, "Pod")
    name = metadata.text("name")
    namespace = metadata.text("namespace") or "default"
    spec = fields.child("spec")
    status = fields.child("status")
    uid = metadata.text("uid") or f"{namespace}/{name}"
    finished = status is not None and status.text("phase") in FINISHED
    return Pod(
        namespace=namespace,
        name=name,
        uid=uid,
        labels=metadata.string_map("labels"),
        node=(spec.text("nodeName") or None) if spec else None,
        addresses=_pod_addresses(status) if status and not finished else (),
        host_network=spec.boolean("hostNetwork", False) if spec else False,
        terminating=metadata.has("deletionTimestamp"),
        created=str(metadata.raw("creationTimestamp") or ""),
        endpoint_uid=uid,
    )


def parse_namespace(obj: object) -> Namespace:
    """A Namespace; the label with its own name, which every API server adds, is there in any case."""
    _, metadata = open_object(obj, "Namespace")
    name = metadata.text("name")
    return Namespace(name, {NAMESPACE_NAME_LABEL: name} | metadata.string_map("labels"))


def parse_node(obj: object) -> Node:
    """A Node with its interfaces from the annotation `egresslab.dev/interfaces`."""
    fields, metadata = open_object(obj, "Node")
    spec = fields.child("spec")
    status = fields.child("status")
    internal_v4, internal_v6 = _node_addresses(status)
    ready = True
    for condition in status.items("conditions") if status else ():
        if condition.raw("type") == "Ready" and condition.raw("status") != "True":
            ready = False
    pod_cidrs = spec.cidrs("podCIDRs") if spec else ()
    if spec is not None and not pod_cidrs and (single := spec.cidr("podCIDR")):
        pod_cidrs = (single,)
    annotations = metadata.child("annotations")
    return Node(
        name=metadata.text("name"),
        labels=metadata.string_map("labels"),
        internal_v4=internal_v4,
        internal_v6=internal_v6,
        ready=ready,
        schedulable=not (spec.boolean("unschedulable", False) if spec else False),
        interfaces=_interfaces(fields.subject, annotations) if annotations else None,
        pod_cidrs=tuple(cidr.network for cidr in pod_cidrs),
        unfit=_unfit(annotations) if annotations else {},
    )


def _pod_addresses(status: Fields) -> tuple[Address, ...]:
    found: dict[Address, None] = {}
    for item in status.items("podIPs"):
        address = item.address("ip")
        if address is not None:
            found[address] = None
    single = status.address("podIP")
    if single is not None:
        found[single] = None
    return tuple(found)


def _node_addresses(status: Fields | None) -> tuple[IPv4Address | None, IPv6Address | None]:
    """InternalIP first, as Cilium takes a node's address; an ExternalIP only where there is no other."""
    ranked: dict[int, dict[str, Any]] = {4: {}, 6: {}}
    for item in status.items("addresses") if status else ():
        kind = item.text("type")
        if kind in ("InternalIP", "ExternalIP"):
            address = item.address("address")
            if address is not None:
                ranked[address.version].setdefault(kind, address)
    v4, v6 = (ranked[version].get("InternalIP") or ranked[version].get("ExternalIP") for version in (4, 6))
    return v4, v6


def _interfaces(subject: str, annotations: Fields) -> tuple[Interface, ...] | None:
    if not annotations.has(INTERFACES_ANNOTATION):
        return None
    text = annotations.text(INTERFACES_ANNOTATION)
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise annotations.refusal(
            INTERFACES_ANNOTATION, f"not JSON: {error}", fix='write {"eth0": {"addresses": [...]}}'
        ) from error
    if not isinstance(decoded, dict):
        fix = 'write {"eth0": {"addresses": [...]}}'
        raise annotations.refusal(INTERFACES_ANNOTATION, "must be an object of interfaces", value=decoded, fix=fix)
    fields = Fields(subject, f"metadata.annotations.{INTERFACES_ANNOTATION}", decoded)
    return tuple(_interface(name, fields) for name in decoded)


def _interface(name: str, fields: Fields) -> Interface:
    if not name or not printable(name):
        raise fields.refusal(name, "not the name of an interface", fix="write the kernel's name, e.g. eth0")
    item = fields.child(name)
    if item is None:
        return Interface(name)
    addresses = []
    for index, text in enumerate(item.texts("addresses")):
        try:
            addresses.append(ip_interface(text))
        except ValueError as error:
            raise item.refusal(
                f"addresses[{index}]", "not an address", value=text, fix="write e.g. 192.168.60.12/24"
            ) from error
    routes = item.texts("default_route")
    return Interface(
        name,
        tuple(addresses),
        item.texts("altnames"),
        "ipv4" in routes,
        "ipv6" in routes,
        item.boolean("carrier", True),
        item.text("mac") or None,
    )


def _unfit(annotations: Fields) -> dict[str, str]:
    """What the node's agent found out. Nothing in it is a reason to refuse a node: what cannot be read was not said."""
    text = annotations.raw(HEALTH_ANNOTATION)
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {gateway: reason for gateway, reason in found.items() if isinstance(reason, str)}
