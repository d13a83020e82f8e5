"""What the cluster's DNS knows: services and their endpoints, pods by address, and the names of the world outside.

Pure but for the two reflectors that feed it. The rules are those of Kubernetes' DNS specification, version 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from ipaddress import ip_address

from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import Object
from egresslab.cluster.node.config import Address


class Unknown(Enum):
    """Why there are no addresses."""

    NAME = auto()


def _pod_address(label: str) -> Address | None:
    """`10-244-1-5` or `fd00-10-244--5` as an address."""
    for text in (label.replace("-", "."), label.replace("-", ":")):
        try:
            return ip_address(text)
        except ValueError:
            continue
    return None


def reversed_address(name: str) -> Address | None:
    """What a name below in-addr.arpa (RFC 1035, section 3.5) or ip6.arpa (RFC 3596, section 2.5) stands for."""
    labels = name.lower().rstrip(".").split(".")[::-1]
    digits = labels[2:]
    try:
        if labels[:2] == ["arpa", "in-addr"] and len(digits) == 4:
            return ip_address(".".join(digits))
        if labels[:2] == ["arpa", "ip6"] and len(digits) == 32 == len("".join(digits)):
            return ip_address(int("".join(digits), 16).to_bytes(16, "big"))
    except ValueError:
        return None
    return None


class Names:
    """Looks names up; `hear_service` and `hear_slice` keep it up to date."""

    def __init__(self, domain: str, records: Mapping[str, Iterable[Address]]) -> None:
        self._domain = tuple(reversed(domain.lower().split(".")))
        self._records = {name.lower().rstrip("."): tuple(addresses) for name, addresses in records.items()}
        self._pointers: dict[Address, tuple[str, ...]] = {}
        for name, addresses in self._records.items():
            for address in addresses:
                self._pointers[address] = (*self._pointers.get(address, ()), name)
        self._services: dict[tuple[str, str], tuple[Address, ...]] = {}
        self._external: dict[tuple[str, str], str] = {}
        self._slices: dict[tuple[str, str], dict[str, list[tuple[str, Address]]]] = {}

    def hear_service(self, change: ObjectChange) -> None:
        """A Service has changed."""
        metadata, spec = change.object["metadata"], change.object.get("spec") or {}
        key = (metadata["namespace"], metadata["name"])
        self._services.pop(key, None)
        self._external.pop(key, None)
        if change.type is ChangeType.DELETED:
            return
        if spec.get("type") == "ExternalName":
            self._external[key] = str(spec.get("externalName", "")).lower().rstrip(".")
            return
        given = spec.get("clusterIPs") or [spec.get("clusterIP")]
        self._services[key] = tuple(ip_address(address) for address in given if address and address != "None")

    def hear_slice(self, change: ObjectChange) -> None:
        """An EndpointSlice has changed."""
        metadata = change.object["metadata"]
        service = (metadata.get("labels") or {}).get("kubernetes.io/service-name")
        if not service:
            return
        key = (metadata["namespace"], service)
        slices = self._slices.setdefault(key, {})
        slices.pop(metadata["name"], None)
        if change.type is not ChangeType.DELETED:
            slices[metadata["name"]] = list(_endpoints(change.object))
        if not slices:
            del self._slices[key]

    def look_up(self, name: str) -> tuple[Address, ...] | Unknown:
        """All addresses of a name, of both families; an empty answer for a name that exists without any."""
        name = name.lower().rstrip(".")
        labels = tuple(reversed(name.split(".")))
        if labels[: len(self._domain)] == self._domain:
            return self._inside(labels[len(self._domain) :])
        return self._records.get(name, Unknown.NAME)

    def names_of(self, address: Address) -> tuple[str, ...]:
        """The names that an address has: those of the world outside, else of a service, else of a headless endpoint."""
        if address in self._pointers:
            return self._pointers[address]
        domain = ".".join(reversed(self._domain))
        for (namespace, service), addresses in self._services.items():
            if address in addresses:
                return (f"{service}.{namespace}.svc.{domain}",)
        found = (
            f"{host}.{service}.{namespace}.svc.{domain}"
            for (namespace, service), slices in self._slices.items()
            if self._services.get((namespace, service)) == ()
            for endpoints in slices.values()
            for host, at in endpoints
            if at == address
        )
        return tuple(found)

    def _inside(self, labels: tuple[str, ...]) -> tuple[Address, ...] | Unknown:
        """A name below the cluster's domain, its labels from right to left."""
        if len(labels) == 3 and labels[0] == "pod":
            address = _pod_address(labels[2])
            return (address,) if address is not None else Unknown.NAME
        if len(labels) in (3, 4) and labels[0] == "svc":
            key = (labels[1], labels[2])
            if len(labels) == 3 and (target := self._external.get(key)):
                return self.look_up(target)
            if key in self._services:
                return self._service(key, labels[3] if len(labels) == 4 else None)
            return Unknown.NAME
        # The domain itself and its branches exist, without addresses.
        return () if labels in ((), ("svc",), ("pod",)) else Unknown.NAME

    def _service(self, key: tuple[str, str], host: str | None) -> tuple[Address, ...] | Unknown:
        endpoints = [endpoint for slice_ in self._slices.get(key, {}).values() for endpoint in slice_]
        if host is not None:
            found = tuple(address for name, address in endpoints if name == host)
            return found or Unknown.NAME
        return self._services[key] or tuple(address for _, address in endpoints)


def _endpoints(slice_: Object) -> Iterable[tuple[str, Address]]:
    """(host name, address) of the endpoints that are ready."""
    for endpoint in slice_.get("endpoints") or []:
        if (endpoint.get("conditions") or {}).get("ready") is False:
            continue
        for text in endpoint.get("addresses") or []:
            address = ip_address(text)
            name = endpoint.get("hostname") or str(address).replace(".", "-").replace(":", "-")
            yield str(name).lower(), address
