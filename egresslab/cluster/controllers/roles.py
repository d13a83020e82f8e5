"""ClusterRoles that gather the rules of others by label (Kubernetes RBAC, "Aggregated ClusterRoles").

kube-apiserver's own `view`, `edit` and `admin` are such roles, and empty until somebody fills them.
"""

from __future__ import annotations

from egresslab.api.connection import Api
from egresslab.api.reflector import ObjectChange
from egresslab.api.resources import Object, Resource
from egresslab.api.selectors import parse_selector
from egresslab.cluster.controllers.caches import Caches
from egresslab.cluster.controllers.workqueue import WorkQueue

CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)


class RoleAggregator:
    """Reconciles aggregated roles by name; any change of a role may concern each of them."""

    def __init__(self, api: Api, caches: Caches) -> None:
        self._api = api
        self._roles = caches.of(CLUSTER_ROLES)
        self.queue: WorkQueue[str] = WorkQueue("roles", self._reconcile, parallel=1)
        self._roles.listen(self._on_change)

    def _on_change(self, change: ObjectChange) -> None:
        for role in self._roles:
            if role.get("aggregationRule"):
                self.queue.add(role["metadata"]["name"])

    async def _reconcile(self, name: str) -> None:
        role = self._roles.get(name)
        if role is None or not role.get("aggregationRule"):
            return
        selectors = [parse_selector(item) for item in role["aggregationRule"].get("clusterRoleSelectors") or ()]
        gathered: list[Object] = []
        for other in sorted(self._roles, key=lambda item: item["metadata"]["name"]):
            labels = other["metadata"].get("labels") or {}
            if other is not role and any(selector.matches(labels) for selector in selectors):
                gathered += [rule for rule in other.get("rules") or () if rule not in gathered]
        if gathered != (role.get("rules") or []):
            guard = {"resourceVersion": role["metadata"]["resourceVersion"]}
            await self._api.patch(CLUSTER_ROLES, name, {"metadata": guard, "rules": gathered})
