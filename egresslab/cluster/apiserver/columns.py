"""What `kubectl get` shows of the built-in kinds: Kubernetes' own columns, row by row.

A layout is a list of heads and a function from an object to its cells. Cells are text or whole numbers; a column of
priority 1 shows with -o wide only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from egresslab.api.resources import Object
from egresslab.api.selectors import SelectorError, parse_selector
from egresslab.cluster.apiserver.ages import age
from egresslab.cluster.apiserver.podcolumns import cells as pod_cells

Cells = Callable[[Object], list[Any]]
NONE = "<none>"


@dataclass(frozen=True, slots=True)
class Head:
    """A column's head (TableColumnDefinition)."""

    name: str
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""

    def definition(self) -> Object:
        """As sent."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True, slots=True)
class Layout:
    """Heads and cells of one kind."""

    heads: tuple[Head, ...]
    cells: Cells


NAME = Head("Name", format="name")


def _heads(text: str) -> tuple[Head, ...]:
    """`Ready Status* Count#`: * is wide only, # a whole number, _ a space; Name comes first."""
    heads = [NAME]
    for word in text.split():
        kind = "integer" if "#" in word else "string"
        heads.append(Head(word.strip("#*").replace("_", " "), kind, 1 if "*" in word else 0))
    return tuple(heads)


def text(value: Any) -> str:
    """A value of any type in a cell."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _age(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _part(obj: Object, part: str) -> Object:
    value = obj.get(part)
    return value if isinstance(value, dict) else {}


def _pairs(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def _selector(selector: object) -> str:
    try:
        return str(parse_selector(selector)).replace("everything", NONE)
    except SelectorError:
        return NONE


def _templates(obj: Object) -> tuple[str, str]:
    containers = _part(_part(_part(obj, "spec"), "template"), "spec").get("containers") or []
    return ",".join(item["name"] for item in containers), ",".join(item.get("image", "") for item in containers)


def _default(obj: Object) -> list[Any]:
    return [_name(obj), _age(obj)]


def _created(obj: Object) -> list[Any]:
    return [_name(obj), obj["metadata"].get("creationTimestamp")]


def _node(obj: Object) -> list[Any]:
    metadata, status = obj["metadata"], _part(obj, "status")
    ready = [c for c in status.get("conditions") or () if c.get("type") == "Ready"]
    words = [("Ready" if ready[0].get("status") == "True" else "NotReady") if ready else "Unknown"]
    if _part(obj, "spec").get("unschedulable"):
        words.append("SchedulingDisabled")
    prefix = "node-role.kubernetes.io/"
    labels = metadata.get("labels") or {}
    roles = sorted({key.removeprefix(prefix) for key in labels if key.startswith(prefix) and key != prefix})
    addresses = {a["type"]: a["address"] for a in reversed(status.get("addresses") or ())}
    info = _part(status, "nodeInfo")
    return [
        _name(obj),
        ",".join(words),
        ",".join(roles) or NONE,
        _age(obj),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _namespace(obj: Object) -> list[Any]:
    return [_name(obj), _part(obj, "status").get("phase", ""), _age(obj)]


def _event(obj: Object) -> list[Any]:
    involved, source, series = _part(obj, "involvedObject"), _part(obj, "source"), _part(obj, "series")
    moment = obj.get("eventTime")
    first = obj.get("firstTimestamp") or moment
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or moment or first
    component = source.get("component") or obj.get("reportingComponent", "")
    host = source.get("host") or obj.get("reportingInstance", "")
    kind = str(involved.get("kind", "")).lower()
    return [
        age(last),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{kind}/{involved.get('name', '')}" if kind else involved.get("name", ""),
        involved.get("fieldPath", ""),
        ", ".join(part for part in (component, host) if part),
        str(obj.get("message", "")).strip(),
        age(first),
        series.get("count") or obj.get("count") or 1,
        _name(obj),
    ]


def _config_map(obj: Object) -> list[Any]:
    return [_name(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), _age(obj)]


def _secret(obj: Object) -> list[Any]:
    return [_name(obj), obj.get("type", "Opaque"), len(obj.get("data") or ()), _age(obj)]


def _service_account(obj: Object) -> list[Any]:
    return [_name(obj), len(obj.get("secrets") or ()), _age(obj)]


def _service(obj: Object) -> list[Any]:
    spec = _part(obj, "spec")
    kind = spec.get("type", "ClusterIP")
    external = [*(spec.get("externalIPs") or ())]
    if kind == "ExternalName":
        external = [spec.get("externalName", "")]
    elif kind == "LoadBalancer":
        ingress = _part(_part(obj, "status"), "loadBalancer").get("ingress") or ()
        external = [*(i.get("ip") or i.get("hostname", "") for i in ingress), *external] or ["<pending>"]
    ports = []
    for port in spec.get("ports") or ():
        number = f"{port['port']}:{port['nodePort']}" if port.get("nodePort") else str(port["port"])
        ports.append(f"{number}/{port.get('protocol', 'TCP')}")
    return [
        _name(obj),
        kind,
        spec.get("clusterIP") or NONE,
        ",".join(external) or NONE,
        ",".join(ports) or NONE,
        _age(obj),
        _pairs(spec.get("selector")),
    ]


def _endpoints(obj: Object) -> list[Any]:
    shown = []
    for subset in obj.get("subsets") or ():
        for address in subset.get("addresses") or ():
            host = f"[{address['ip']}]" if ":" in address["ip"] else address["ip"]
            shown += [f"{host}:{port['port']}" for port in subset.get("ports") or ()] or [address["ip"]]
    more = f" + {len(shown) - 3} more..." if len(shown) > 3 else ""
    return [_name(obj), ",".join(shown[:3]) + more or NONE, _age(obj)]


def _endpoint_slice(obj: Object) -> list[Any]:
    ports = ",".join(str(port.get("port", "*")) for port in obj.get("ports") or ()) or "<unset>"
    addresses = [address for endpoint in obj.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    more = f" + {len(addresses) - 3} more..." if len(addresses) > 3 else ""
    return [_name(obj), obj.get("addressType", ""), ports, ",".join(addresses[:3]) + more or "<unset>", _age(obj)]


def _deployment(obj: Object) -> list[Any]:
    spec, status = _part(obj, "spec"), _part(obj, "status")
    names, images = _templates(obj)
    return [
        _name(obj),
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        _age(obj),
        names,
        images,
        _selector(spec.get("selector") or {}),
    ]


def _replica_set(obj: Object) -> list[Any]:
    spec, status = _part(obj, "spec"), _part(obj, "status")
    names, images = _templates(obj)
    counts = [spec.get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [_name(obj), *counts, _age(obj), names, images, _selector(spec.get("selector") or {})]


def _daemon_set(obj: Object) -> list[Any]:
    spec, status = _part(obj, "spec"), _part(obj, "status")
    names, images = _templates(obj)
    keys = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    node_selector = _part(_part(spec, "template"), "spec").get("nodeSelector")
    counts = [status.get(key, 0) for key in keys]
    selector = _selector(spec.get("selector") or {})
    return [_name(obj), *counts, _pairs(node_selector), _age(obj), names, images, selector]


def _revision(obj: Object) -> list[Any]:
    owners = obj["metadata"].get("ownerReferences") or ()
    owner = next((f"{ref['kind'].lower()}/{ref['name']}" for ref in owners if ref.get("controller")), NONE)
    return [_name(obj), owner, obj.get("revision", 0), _age(obj)]


def _lease(obj: Object) -> list[Any]:
    return [_name(obj), _part(obj, "spec").get("holderIdentity") or "", _age(obj)]


def _binding(obj: Object) -> list[Any]:
    by_kind: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        name = subject.get("name", "")
        if subject.get("kind") == "ServiceAccount":
            name = f"{subject.get('namespace', '')}/{name}"
        by_kind.setdefault(subject.get("kind", ""), []).append(name)
    role = obj.get("roleRef") or {}
    subjects = [", ".join(by_kind[kind]) for kind in ("User", "Group", "ServiceAccount")]
    return [_name(obj), f"{role.get('kind')}/{role.get('name')}", _age(obj), *subjects]


def _priority_class(obj: Object) -> list[Any]:
    default = str(bool(obj.get("globalDefault"))).lower()
    policy = obj.get("preemptionPolicy", "PreemptLowerPriority")
    return [_name(obj), obj.get("value", 0), default, _age(obj), policy]


def _webhooks(obj: Object) -> list[Any]:
    return [_name(obj), len(obj.get("webhooks") or ()), _age(obj)]


def _budget(obj: Object) -> list[Any]:
    spec = _part(obj, "spec")
    limits = [str(spec.get(key, "N/A")) for key in ("minAvailable", "maxUnavailable")]
    return [_name(obj), *limits, _part(obj, "status").get("disruptionsAllowed", 0), _age(obj)]


DEFAULT = Layout(_heads("Age"), _default)
_WORKLOAD = "Containers* Images* Selector*"
_RBAC = "rbac.authorization.k8s.io"
_BINDING = Layout(_heads("Role Age Users* Groups* ServiceAccounts*"), _binding)
_WEBHOOKS = Layout(_heads("Webhooks# Age"), _webhooks)
_POD = "Ready Status Restarts Age IP* Node* Nominated_Node* Readiness_Gates*"
_NODE = "Status Roles Age Version Internal-IP* External-IP* OS-Image* Kernel-Version* Container-Runtime*"
_EVENT = "Type Reason Object Subobject* Source* Message First_Seen* Count#*"
BUILT_IN: dict[str, Layout] = {
    "pods": Layout(_heads(_POD), pod_cells),
    "nodes": Layout(_heads(_NODE), _node),
    "namespaces": Layout(_heads("Status Age"), _namespace),
    "events": Layout(
        (Head("Last Seen"), *_heads(_EVENT)[1:], Head("Name", priority=1, format="name")),
        _event,
    ),
    "configmaps": Layout(_heads("Data# Age"), _config_map),
    "secrets": Layout(_heads("Type Data# Age"), _secret),
    "serviceaccounts": Layout(_heads("Secrets# Age"), _service_account),
    "services": Layout(_heads("Type Cluster-IP External-IP Port(s) Age Selector*"), _service),
    "endpoints": Layout(_heads("Endpoints Age"), _endpoints),
    "endpointslices.discovery.k8s.io": Layout(_heads("AddressType Ports Endpoints Age"), _endpoint_slice),
    "deployments.apps": Layout(_heads(f"Ready Up-to-date# Available# Age {_WORKLOAD}"), _deployment),
    "replicasets.apps": Layout(_heads(f"Desired# Current# Ready# Age {_WORKLOAD}"), _replica_set),
    "daemonsets.apps": Layout(
        _heads(f"Desired# Current# Ready# Up-to-date# Available# Node_Selector Age {_WORKLOAD}"), _daemon_set
    ),
    "controllerrevisions.apps": Layout(_heads("Controller Revision# Age"), _revision),
    "leases.coordination.k8s.io": Layout(_heads("Holder Age"), _lease),
    "customresourcedefinitions.apiextensions.k8s.io": Layout(_heads("Created_At"), _created),
    f"roles.{_RBAC}": Layout(_heads("Created_At"), _created),
    f"clusterroles.{_RBAC}": Layout(_heads("Created_At"), _created),
    f"rolebindings.{_RBAC}": _BINDING,
    f"clusterrolebindings.{_RBAC}": _BINDING,
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": _WEBHOOKS,
    "validatingwebhookconfigurations.admissionregistration.k8s.io": _WEBHOOKS,
    "priorityclasses.scheduling.k8s.io": Layout(_heads("Value# Global-Default Age PreemptionPolicy"), _priority_class),
    "poddisruptionbudgets.policy": Layout(_heads("Min_Available Max_Unavailable Allowed_Disruptions# Age"), _budget),
}
