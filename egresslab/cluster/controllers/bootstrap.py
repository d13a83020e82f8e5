"""The objects that every cluster has before anyone asks for any: namespaces, and the services of API server and DNS."""

from __future__ import annotations

from egresslab.api.connection import Api, ApiError
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import ENDPOINT_SLICES, ENDPOINTS, NAMESPACES, NODES, SERVICES, Object, Resource
from egresslab.cluster.controllers.caches import Caches
from egresslab.cluster.controllers.serviceendpoints import SERVICE_LABEL
from egresslab.cluster.controllers.settings import Settings
from egresslab.cluster.controllers.statuses import differs
from egresslab.cluster.controllers.workqueue import WorkQueue

DEFAULT_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"
EVERYTHING = "cluster"


class Bootstrap:
    """Makes them, and makes them again when somebody deletes one; there is only one key."""

    def __init__(self, api: Api, caches: Caches, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._nodes = caches.of(NODES)
        self._caches = {item: caches.of(item) for item in (NAMESPACES, SERVICES, ENDPOINT_SLICES, ENDPOINTS)}
        self.queue: WorkQueue[str] = WorkQueue("bootstrap", self._reconcile, parallel=1)
        self._nodes.listen(self._on_node)
        for cache in self._caches.values():
            cache.listen(self._on_change)
        self.queue.add(EVERYTHING)

    def _on_node(self, change: ObjectChange) -> None:
        if change.old is None or _addresses(change.old) != _addresses(change.object):
            self.queue.add(EVERYTHING)

    def _on_change(self, change: ObjectChange) -> None:
        metadata = change.object["metadata"]
        ours = metadata["name"] in (*DEFAULT_NAMESPACES, "kubernetes", "kube-dns")
        if ours and change.type is ChangeType.DELETED:
            self.queue.add(EVERYTHING)

    async def _reconcile(self, key: str) -> None:
        for name in DEFAULT_NAMESPACES:
            await self._ensure(NAMESPACES, {"metadata": {"name": name}})
        await self._ensure(SERVICES, _apiserver_service())
        await self._ensure(SERVICES, _dns_service(self._settings.dns_address))
        apiservers = [
            address
            for node in sorted(self._nodes, key=lambda item: str(item["metadata"]["name"]))
            if CONTROL_PLANE_LABEL in (node["metadata"].get("labels") or {})
            for address in _addresses(node)
        ]
        ports = [{"name": "https", "protocol": "TCP", "port": self._settings.apiserver_port}]
        for body in _endpoints("default", "kubernetes", apiservers, ports):
            await self._ensure(*body)
        ports = [{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}]
        for body in _endpoints("kube-system", "kube-dns", [self._settings.dns_address], ports):
            await self._ensure(*body)

    async def _ensure(self, resource: Resource, body: Object) -> None:
        """Create what is missing; of what is there only endpoints are kept in step."""
        metadata = body["metadata"]
        namespace = metadata.get("namespace")
        known = self._caches[resource].get(metadata["name"], namespace or "")
        full = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        if known is None:
            try:
                await self._api.create(resource, full, namespace)
            except ApiError as error:
                if error.status != 409 or error.reason != "AlreadyExists":
                    raise
            return
        content: Object = {field: full[field] for field in ("endpoints", "ports", "subsets") if field in full}
        if resource in (ENDPOINTS, ENDPOINT_SLICES) and differs(known, content):
            guard = {"resourceVersion": known["metadata"]["resourceVersion"]}
            await self._api.replace(resource, {**full, "metadata": {**metadata, **guard}})


def _addresses(node: Object) -> list[str]:
    """IPv4 and IPv6 addresses that other nodes reach the node by."""
    known = (node.get("status") or {}).get("addresses") or ()
    return [item["address"] for item in known if item["type"] == "InternalIP"]


def _apiserver_service() -> Object:
    return {
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "10.96.0.1",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    }


def _dns_service(address: str) -> Object:
    ports = (("dns", "UDP", 53), ("dns-tcp", "TCP", 53), ("metrics", "TCP", 9153))
    labels = {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
    return {
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "ports": [
                {"name": name, "protocol": protocol, "port": port, "targetPort": port} for name, protocol, port in ports
            ],
        },
    }


def _endpoints(
    namespace: str, service: str, addresses: list[str], ports: list[Object]
) -> list[tuple[Resource, Object]]:
    """Both forms of the endpoints of a service that has no pods."""
    addresses = [address for address in addresses if ":" not in address]
    metadata = {"name": service, "namespace": namespace}
    subset = {"addresses": [{"ip": address} for address in addresses], "ports": ports}
    slice_body: Object = {
        "metadata": {**metadata, "labels": {SERVICE_LABEL: service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": ports,
    }
    return [
        (ENDPOINT_SLICES, slice_body),
        (ENDPOINTS, {"metadata": metadata, "subsets": [subset] if addresses else None}),
    ]
