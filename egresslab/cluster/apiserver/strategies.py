"""What is particular to a kind when it is written: its defaults, what the server decides, and what it refuses.

Most kinds need none of it. A strategy's functions change or judge the object that is given; they know no requests and
no store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from egresslab.api.faults import FieldFault
from egresslab.api.resources import Object
from egresslab.cluster.apiserver import cluster, definitions, pods, workloads


def _nothing(obj: Object, old: Object | None) -> None:
    """No change."""


def _no_faults(obj: Object, old: Object | None) -> list[FieldFault]:
    return []


@dataclass(frozen=True, slots=True)
class Strategy:
    """`prepare` sets defaults and what the server decides, `validate` names faults; `old` is None on create."""

    prepare: Callable[[Object, Object | None], None] = _nothing
    validate: Callable[[Object, Object | None], list[FieldFault]] = _no_faults


PLAIN = Strategy()
STRATEGIES: dict[str, Strategy] = {
    "pods": Strategy(pods.prepare, pods.validate),
    definitions.BUCKET: Strategy(definitions.prepare, definitions.validate),
    "nodes": Strategy(cluster.prepare_node, cluster.validate_node),
    "namespaces": Strategy(cluster.prepare_namespace, _no_faults),
    "secrets": Strategy(cluster.prepare_secret, cluster.validate_secret),
    "configmaps": Strategy(_nothing, cluster.validate_config_map),
    "services": Strategy(workloads.prepare_service, workloads.validate_service),
    "deployments.apps": Strategy(workloads.prepare_deployment, workloads.validate_workload),
    "replicasets.apps": Strategy(workloads.prepare_replica_set, workloads.validate_workload),
    "daemonsets.apps": Strategy(workloads.prepare_daemon_set, workloads.validate_workload),
    "controllerrevisions.apps": Strategy(_nothing, cluster.validate_revision),
    "priorityclasses.scheduling.k8s.io": Strategy(cluster.prepare_priority_class, cluster.validate_priority_class),
    "rolebindings.rbac.authorization.k8s.io": Strategy(cluster.prepare_binding, cluster.validate_binding),
    "clusterrolebindings.rbac.authorization.k8s.io": Strategy(cluster.prepare_binding, cluster.validate_binding),
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": Strategy(cluster.prepare_webhooks),
    "validatingwebhookconfigurations.admissionregistration.k8s.io": Strategy(cluster.prepare_webhooks),
}
