"""Reads the schemas of built-in kinds off the models of the official client, so that they are Kubernetes' own types.

The models know names, types, required fields and descriptions. How lists merge, the models do not know; that is
declared here (Kubernetes API reference, "patch strategy" and "list map key"). Importing this takes long, and is left to
`types`.
"""

from __future__ import annotations

import types
import typing
from datetime import datetime
from typing import Any, get_args, get_origin

from kubernetes.aio import client as models
from pydantic import BaseModel

from egresslab.cluster.apiserver.naming import component

# (model, field) -> merge key of strategic merge patch, keys of server-side apply's map.
_MERGED: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("V1PodSpec", "containers"): ("name", ("name",)),
    ("V1PodSpec", "initContainers"): ("name", ("name",)),
    ("V1PodSpec", "ephemeralContainers"): ("name", ("name",)),
    ("V1PodSpec", "volumes"): ("name", ("name",)),
    ("V1PodSpec", "imagePullSecrets"): ("name", ("name",)),
    ("V1PodSpec", "hostAliases"): ("ip", ("ip",)),
    ("V1PodSpec", "schedulingGates"): ("name", ("name",)),
    ("V1PodSpec", "topologySpreadConstraints"): ("topologyKey", ("topologyKey", "whenUnsatisfiable")),
    ("V1PodStatus", "conditions"): ("type", ("type",)),
    ("V1PodStatus", "podIPs"): ("ip", ("ip",)),
    ("V1PodStatus", "hostIPs"): ("ip", ()),
    **{
        (model, field): keys
        for model in ("V1Container", "V1EphemeralContainer")
        for field, keys in {
            "env": ("name", ("name",)),
            "ports": ("containerPort", ("containerPort", "protocol")),
            "volumeMounts": ("mountPath", ("mountPath",)),
            "volumeDevices": ("devicePath", ("devicePath",)),
        }.items()
    },
    ("V1ObjectMeta", "ownerReferences"): ("uid", ("uid",)),
    ("V1NodeSpec", "taints"): ("key", ()),
    ("V1NodeStatus", "conditions"): ("type", ("type",)),
    ("V1NodeStatus", "addresses"): ("type", ("type",)),
    ("V1NamespaceStatus", "conditions"): ("type", ("type",)),
    ("V1ServiceSpec", "ports"): ("port", ("port", "protocol")),
    ("V1ServiceStatus", "conditions"): ("type", ("type",)),
    ("V1ServiceAccount", "secrets"): ("name", ("name",)),
    ("V1ServiceAccount", "imagePullSecrets"): ("name", ()),
    ("V1DeploymentStatus", "conditions"): ("type", ("type",)),
    ("V1DaemonSetStatus", "conditions"): ("type", ("type",)),
    ("V1ReplicaSetStatus", "conditions"): ("type", ("type",)),
    ("V1PodDisruptionBudgetStatus", "conditions"): ("type", ("type",)),
    ("V1CustomResourceDefinitionStatus", "conditions"): ("", ("type",)),
    ("V1EndpointSlice", "ports"): ("", ()),
    ("V1MutatingWebhookConfiguration", "webhooks"): ("name", ("name",)),
    ("V1ValidatingWebhookConfiguration", "webhooks"): ("name", ("name",)),
}
_SETS = {
    ("V1ObjectMeta", "finalizers"),
    ("V1NodeSpec", "podCIDRs"),
}
_ATOMIC_MODELS = {
    "V1LabelSelector",
    "V1ObjectReference",
    "V1LocalObjectReference",
    "V1TypedLocalObjectReference",
    "V1SecretKeySelector",
    "V1ConfigMapKeySelector",
    "V1ObjectFieldSelector",
    "V1ResourceFieldSelector",
    "V1NodeSelector",
    "V1NodeSelectorTerm",
    "V1OwnerReference",
    "V1RoleRef",
    "V1Subject",
}
_ATOMIC_MAPS = {("V1PodSpec", "nodeSelector"), ("V1ServiceSpec", "selector")}
_RETAIN_KEYS = {("V1DeploymentSpec", "strategy"), ("V1PodSpec", "volumes")}


def read(model: str) -> dict[str, Any] | None:
    """The OpenAPI schema of a model, with `$ref`s to others; None where there is no such model."""
    found = getattr(models, model, None)
    if found is None or not issubclass(found, BaseModel):
        return None
    properties, needed = {}, []
    for name, field in found.model_fields.items():
        wire = field.serialization_alias or name
        shape = _shape(field.annotation)
        if field.description:
            shape["description"] = field.description
        properties[wire] = _merging(model, wire, shape)
        if field.is_required():
            needed.append(wire)
    title = component(model).rpartition(".")[2]
    schema: dict[str, Any] = {"type": "object", "title": title, "properties": properties}
    if found.__doc__:
        schema["description"] = found.__doc__.strip().partition("\n")[0]
    if needed:
        schema["required"] = needed
    if model in _ATOMIC_MODELS:
        schema["x-kubernetes-map-type"] = "atomic"
    if not properties:
        schema["x-kubernetes-preserve-unknown-fields"] = True
    return schema


def _merging(model: str, field: str, shape: dict[str, Any]) -> dict[str, Any]:
    if (keys := _MERGED.get((model, field))) is not None:
        if keys[0]:
            shape |= {"x-kubernetes-patch-merge-key": keys[0], "x-kubernetes-patch-strategy": "merge"}
        if keys[1]:
            shape |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys[1])}
    if (model, field) in _SETS:
        shape |= {"x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge"}
    if (model, field) in _ATOMIC_MAPS:
        shape["x-kubernetes-map-type"] = "atomic"
    if (model, field) in _RETAIN_KEYS:
        strategies = [shape.get("x-kubernetes-patch-strategy", ""), "retainKeys"]
        shape["x-kubernetes-patch-strategy"] = ",".join(part for part in strategies if part)
    return shape


def _shape(annotation: Any) -> dict[str, Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _shape(arguments[0])
    if origin in (typing.Union, types.UnionType):
        choices = [item for item in arguments if item is not type(None)]
        if len(choices) == 1:
            return _shape(choices[0])
        kinds = {_shape(item).get("type") for item in choices}
        if kinds == {"integer", "string"}:
            return {"x-kubernetes-int-or-string": True, "oneOf": [{"type": "integer"}, {"type": "string"}]}
        return {"type": "number"} if kinds <= {"integer", "number"} else {}
    if origin is list:
        return {"type": "array", "items": _shape(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _shape(arguments[1])}
    if isinstance(annotation, type):
        for python, json in (
            (bool, "boolean"),
            (int, "integer"),
            (float, "number"),
            (bytes, "string"),
            (str, "string"),
        ):
            if issubclass(annotation, python):
                return {"type": json}
        if issubclass(annotation, datetime):
            return {"type": "string", "format": "date-time"}
        if issubclass(annotation, BaseModel):
            return {"$ref": f"#/components/schemas/{component(annotation.__name__)}"}
    return {"x-kubernetes-preserve-unknown-fields": True}
