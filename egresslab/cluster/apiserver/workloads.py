"""Deployments, replica sets, daemon sets and services as the server completes and judges them.

What a controller or the network does with them is not decided here; cluster addresses are given out in `addresses`.
"""

from __future__ import annotations

from typing import Any

from egresslab.api.faults import FieldFault, forbidden, invalid, required
from egresslab.api.resources import Object
from egresslab.api.selectors import SelectorError, parse_selector
from egresslab.cluster.apiserver import metadata, pods
from egresslab.cluster.apiserver.status import ELSEWHERE

_PORT_WORDS = "must be between 1 and 65535, inclusive"
_ROLLING = {"maxUnavailable": "25%", "maxSurge": "25%"}


def _template(obj: Object) -> Object:
    spec = obj.setdefault("spec", {})
    template: Object = spec.setdefault("template", {})
    metadata.tidy(template.setdefault("metadata", {}))
    pods.complete_spec(template.setdefault("spec", {}))
    return template


def prepare_deployment(obj: Object, old: Object | None) -> None:
    """Deployment defaults."""
    _template(obj)
    spec = obj["spec"]
    if spec.get("replicas") is None:
        spec["replicas"] = 1
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy["rollingUpdate"] = {**_ROLLING, **(strategy.get("rollingUpdate") or {})}
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    obj.setdefault("status", {})


def prepare_replica_set(obj: Object, old: Object | None) -> None:
    """ReplicaSet defaults."""
    _template(obj)
    if obj["spec"].get("replicas") is None:
        obj["spec"]["replicas"] = 1
    if old is None:
        obj.setdefault("status", {}).setdefault("replicas", 0)


def prepare_daemon_set(obj: Object, old: Object | None) -> None:
    """DaemonSet defaults."""
    _template(obj)
    spec = obj["spec"]
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy["rollingUpdate"] = {"maxUnavailable": 1, "maxSurge": 0, **(strategy.get("rollingUpdate") or {})}
    spec.setdefault("revisionHistoryLimit", 10)
    if old is None:
        names = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady")
        obj["status"] = dict.fromkeys(names, 0) | (obj.get("status") or {})


def validate_workload(obj: Object, old: Object | None) -> list[FieldFault]:
    """Faults of a Deployment, ReplicaSet or DaemonSet."""
    spec: Any = obj.get("spec") or {}
    faults: list[FieldFault] = []
    selector, template = spec.get("selector"), spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if selector is None:
        faults.append(required("spec.selector"))
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        words = "empty selector is invalid for " + {"DaemonSet": "daemonset"}.get(obj["kind"], "deployment")
        faults.append(invalid("spec.selector", selector, words))
    else:
        try:
            if not parse_selector(selector).matches(labels):
                faults.append(
                    invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
                )
        except SelectorError as error:
            faults.append(invalid(f"spec.selector.{error.field or ''}".rstrip("."), error.value, error.message))
    if (spec.get("replicas") or 0) < 0:
        faults.append(invalid("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
    if old is not None and old["spec"].get("selector") != selector:
        faults.append(invalid("spec.selector", selector, "field is immutable"))
    return faults + pods.validate_spec(template.get("spec") or {}, "spec.template.spec")


def prepare_service(obj: Object, old: Object | None) -> None:
    """Service defaults."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, ""):
            port["targetPort"] = port.get("port")
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
        if old is not None:
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if not spec.get(name) and old["spec"].get(name):
                    spec[name] = old["spec"][name]
    if old is None:
        obj["status"] = {"loadBalancer": {}}


def validate_service(obj: Object, old: Object | None) -> list[FieldFault]:
    """Faults of a Service."""
    spec = obj["spec"]
    faults: list[FieldFault] = []
    if spec["type"] in ("NodePort", "LoadBalancer"):
        faults.append(forbidden("spec.type", f"{spec['type']} services are {ELSEWHERE}"))
    ports = spec.get("ports") or []
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        faults.append(required("spec.ports"))
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            faults.append(required(f"spec.ports[{index}].name"))
        if not isinstance(port.get("port"), int) or not 0 < port["port"] < 65536:
            faults.append(invalid(f"spec.ports[{index}].port", port.get("port"), _PORT_WORDS))
    before = (old or {}).get("spec", {}).get("clusterIP")
    if before and spec["type"] != "ExternalName" and spec.get("clusterIP") != before:
        faults.append(invalid("spec.clusterIPs[0]", [spec.get("clusterIP")], "may not change once set"))
    return faults
