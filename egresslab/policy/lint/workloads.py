"""Pods that manifests promise: those of workload templates, and those that a selector itself describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network

from egresslab.api.selectors import Operator
from egresslab.errors import PolicyError
from egresslab.policy.fields import open_object
from egresslab.policy.inventory import POD_NAMESPACE_LABEL, Pod
from egresslab.policy.matching import pod_labels, selects
from egresslab.policy.model import EgressPolicy, Network, Selection
from egresslab.policy.objects import kind_of

WORKLOADS = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController"})
ANY_VALUE = "any"


def pod_of_template(obj: object) -> Pod | None:
    """A pod as a workload would make it, without an address; None for what is no workload, or a malformed one."""
    kind = kind_of(obj)[1]
    if kind not in WORKLOADS and kind != "CronJob":
        return None
    try:
        fields, metadata = open_object(obj, kind)
        spec = fields.child("spec")
        if kind == "CronJob" and spec is not None:
            job = spec.child("jobTemplate")
            spec = job.child("spec") if job else None
        template = spec.child("template") if spec else None
        if template is None:
            return None
        template_metadata = template.child("metadata")
        template_spec = template.child("spec")
        namespace = metadata.text("namespace") or "default"
        return Pod(
            namespace=namespace,
            name=f"{kind}/{metadata.text('name')}",
            uid=f"{kind}/{namespace}/{metadata.text('name')}",
            labels=template_metadata.string_map("labels") if template_metadata else {},
            host_network=template_spec.boolean("hostNetwork", False) if template_spec else False,
        )
    except PolicyError:
        # Not ours to judge: whoever applies the workload is told.
        return None


def implied_pod(policy: EgressPolicy, number: int, selection: Selection) -> Pod | None:
    """A pod that an entry selects by its labels alone, to see who else would; None where no such pod is easily made."""
    if selection.namespaces is not None or selection.nodes is not None:
        return None
    labels = {}
    for requirement in selection.pods.requirements:
        if requirement.operator is Operator.IN:
            labels[requirement.key] = min(requirement.values)
        elif requirement.operator is Operator.EXISTS:
            labels.setdefault(requirement.key, ANY_VALUE)
    namespace = labels.pop(POD_NAMESPACE_LABEL, "default")
    if not selects(selection, pod_labels(namespace, labels), {}):
        return None
    name = f"selected-by-{policy.key.name}-{number}"
    return Pod(namespace, name, f"implied/{policy.key.dialect}/{policy.key.name}/{number}", labels)


def service_addresses(obj: object) -> Iterator[Network]:
    """The cluster addresses of a Service."""
    if kind_of(obj) != ("v1", "Service") or not isinstance(obj, Mapping):
        return
    spec = obj.get("spec")
    if not isinstance(spec, Mapping):
        return
    several = spec.get("clusterIPs")
    for text in [spec.get("clusterIP"), *(several if isinstance(several, list) else ())]:
        if isinstance(text, str):
            try:
                yield ip_network(ip_address(text))
            except ValueError:
                continue  # "None": a headless service
