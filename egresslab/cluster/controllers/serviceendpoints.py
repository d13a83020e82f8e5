"""Which addresses a Service stands for: EndpointSlices, one for each address family and set of ports. Pure.

The cluster's DNS answers from these slices alone.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egresslab.api.resources import ENDPOINT_SLICES, SERVICES, Object
from egresslab.api.selectors import parse_selector
from egresslab.cluster.controllers.ownership import owner_reference
from egresslab.cluster.controllers.podstate import is_finished, is_ready, is_terminating

SERVICE_LABEL = "kubernetes.io/service-name"
MANAGER_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
HEADLESS_LABEL = "service.kubernetes.io/headless"


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a service as one pod offers it."""

    name: str
    protocol: str
    number: int

    def as_object(self) -> Object:
        """As in an EndpointSlice."""
        return {"name": self.name, "protocol": self.protocol, "port": self.number}


def selects(service: Object, labels: Mapping[str, str]) -> bool:
    """Whether the service's selector wants a pod with these labels; a service without selector wants none."""
    selector = (service.get("spec") or {}).get("selector")
    return bool(selector) and parse_selector({"matchLabels": selector}).matches(labels)


def slices(service: Object, pods: Iterable[Object]) -> dict[str, Object]:
    """The EndpointSlices that `service` should have, by name, given the pods of its namespace."""
    spec, metadata = service.get("spec") or {}, service["metadata"]
    if not spec.get("selector") or spec.get("type") == "ExternalName":
        return {}
    chosen = [pod for pod in pods if not is_finished(pod) and selects(service, pod["metadata"].get("labels") or {})]
    chosen.sort(key=lambda pod: str(pod["metadata"]["name"]))
    result = {}
    for family in spec.get("ipFamilies") or ["IPv4"]:
        groups: dict[tuple[Port, ...], list[Object]] = {}
        for pod in chosen:
            address = _address(pod, family)
            if address:
                groups.setdefault(_ports(spec, pod), []).append(_endpoint(service, pod, address))
        for ports, endpoints in (groups or {(): []}).items():
            # A name that follows from its content: making the same slice twice is impossible.
            digest = hashlib.blake2b(repr((metadata["uid"], family, ports)).encode(), digest_size=3).hexdigest()
            name = f"{metadata['name']}-{digest}"
            result[name] = _slice(service, name, family, ports, endpoints)
    return result


def legacy(service: Object, found: Mapping[str, Object]) -> Object:
    """The Endpoints object that says the same as the slices of the service's first family."""
    metadata = service["metadata"]
    family = ((service.get("spec") or {}).get("ipFamilies") or ["IPv4"])[0]
    subsets = []
    for item in found.values():
        if item["addressType"] != family or not item["endpoints"]:
            continue
        subset: Object = {"addresses": [], "notReadyAddresses": [], "ports": item["ports"]}
        for endpoint in item["endpoints"]:
            if endpoint["conditions"]["terminating"] and not endpoint["conditions"]["ready"]:
                continue
            address = {
                "ip": endpoint["addresses"][0],
                "nodeName": endpoint["nodeName"],
                "targetRef": endpoint["targetRef"],
            }
            subset["addresses" if endpoint["conditions"]["ready"] else "notReadyAddresses"].append(address)
        kept = {name: value for name, value in subset.items() if value}
        if len(kept) > ("ports" in kept):
            subsets.append(kept)
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": {**(metadata.get("labels") or {}), "endpoints.kubernetes.io/managed-by": "endpoint-controller"},
        },
        "subsets": subsets or None,
    }


def _slice(service: Object, name: str, family: str, ports: tuple[Port, ...], endpoints: list[Object]) -> Object:
    metadata = service["metadata"]
    labels = {**(metadata.get("labels") or {}), SERVICE_LABEL: metadata["name"], MANAGER_LABEL: MANAGER}
    if (service.get("spec") or {}).get("clusterIP") == "None":
        labels[HEADLESS_LABEL] = ""
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(service, SERVICES)],
        },
        "addressType": family,
        "ports": [port.as_object() for port in ports],
        "endpoints": endpoints,
    }


def _endpoint(service: Object, pod: Object, address: str) -> Object:
    metadata, spec = pod["metadata"], pod["spec"]
    serving, terminating = is_ready(pod), is_terminating(pod)
    published = bool((service.get("spec") or {}).get("publishNotReadyAddresses"))
    endpoint: Object = {
        "addresses": [address],
        "conditions": {
            "ready": published or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "nodeName": spec.get("nodeName"),
        "targetRef": {
            "kind": "Pod",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
    }
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        endpoint["hostname"] = spec["hostname"]
    return endpoint


def _address(pod: Object, family: str) -> str | None:
    status = pod.get("status") or {}
    known = [item["ip"] for item in status.get("podIPs") or ()] or [status.get("podIP")]
    version = 4 if family == "IPv4" else 6
    return next((text for text in known if text and ipaddress.ip_address(text).version == version), None)


def _ports(spec: Object, pod: Object) -> tuple[Port, ...]:
    """The service's ports with their numbers in this pod; a name that the pod does not know is left out."""
    found = []
    for port in spec.get("ports") or ():
        protocol, target = port.get("protocol") or "TCP", port.get("targetPort", port["port"])
        number = target if isinstance(target, int) else _named(pod, target, protocol)
        if number is not None:
            found.append(Port(port.get("name") or "", protocol, number))
    return tuple(found)


def _named(pod: Object, name: str, protocol: str) -> int | None:
    for container in pod["spec"].get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == name and (port.get("protocol") or "TCP") == protocol:
                number: int = port["containerPort"]
                return number
    return None
