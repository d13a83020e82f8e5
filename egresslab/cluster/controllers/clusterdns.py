"""The `kube-dns` service, which every cluster has; here without pods, since each node answers on its address itself."""

from __future__ import annotations

from egresslab.api.connection import Api, ApiError
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import ENDPOINT_SLICES, ENDPOINTS, SERVICES, Object, Resource
from egresslab.cluster.controllers.caches import Caches
from egresslab.cluster.controllers.serviceendpoints import SERVICE_LABEL
from egresslab.cluster.controllers.settings import Settings
from egresslab.cluster.controllers.workqueue import WorkQueue

NAMESPACE = "kube-system"
NAME = "kube-dns"
LABELS = {"k8s-app": NAME, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
PORTS = (("dns", "UDP", 53), ("dns-tcp", "TCP", 53))


class ClusterDns:
    """Makes the service and its endpoints, and makes them again when somebody deletes them; there is only one key."""

    def __init__(self, api: Api, caches: Caches, settings: Settings) -> None:
        self._api = api
        self._wanted = _objects(settings.dns_address)
        self._caches = {resource: caches.of(resource) for resource, _ in self._wanted}
        self.queue: WorkQueue[str] = WorkQueue("cluster-dns", self._reconcile, parallel=1)
        for cache in self._caches.values():
            cache.listen(self._on_change)
        self.queue.add(NAME)

    def _on_change(self, change: ObjectChange) -> None:
        if change.type is ChangeType.DELETED and change.object["metadata"]["name"] == NAME:
            self.queue.add(NAME)

    async def _reconcile(self, key: str) -> None:
        for resource, body in self._wanted:
            if self._caches[resource].get(NAME, NAMESPACE) is not None:
                continue
            try:
                await self._api.create(resource, body, NAMESPACE)
            except ApiError as error:
                if error.status != 409 or error.reason != "AlreadyExists":
                    raise


def _objects(address: str) -> list[tuple[Resource, Object]]:
    ports = [{"name": name, "protocol": protocol, "port": port} for name, protocol, port in PORTS]
    service = {
        "type": "ClusterIP",
        "clusterIP": address,
        "ports": [{**port, "targetPort": port["port"]} for port in ports],
    }
    endpoint = {"addresses": [address], "conditions": {"ready": True}}
    contents: list[tuple[Resource, dict[str, str], Object]] = [
        (SERVICES, LABELS, {"spec": service}),
        (
            ENDPOINT_SLICES,
            {SERVICE_LABEL: NAME},
            {"addressType": "IPv6" if ":" in address else "IPv4", "endpoints": [endpoint], "ports": ports},
        ),
        (ENDPOINTS, {}, {"subsets": [{"addresses": [{"ip": address}], "ports": ports}]}),
    ]
    found = []
    for resource, labels, content in contents:
        metadata = {"name": NAME, "namespace": NAMESPACE, "labels": labels}
        head: Object = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        found.append((resource, {**head, **content}))
    return found
