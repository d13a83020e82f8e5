"""Bodies in Kubernetes' protobuf: kubectl's typed commands (`create deployment`, `auth can-i`, `drain`) send
nothing else.

Only requests are read; answers are JSON, which every client takes. The numbers are the wire format of the
Kubernetes API (`generated.proto`, stable by promise); fields and messages that kubectl never sends are left out,
and met in a body they are refused rather than lost.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from egresslab.api.resources import Object

MEDIA = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"

# Field types: s text, b boolean, i integer, d bytes, x a number or text, M map of text, D map of bytes; anything else
# is a message. `*` after it repeats, `?` keeps a zero (a pointer in Go), `-` is read over.
_META: dict[int, tuple[str, str]] = {
    1: ("name", "s"),
    2: ("generateName", "s"),
    3: ("namespace", "s"),
    4: ("selfLink", "s"),
    5: ("uid", "s"),
    6: ("resourceVersion", "s"),
    7: ("generation", "i"),
    8: ("creationTimestamp", "-"),
    11: ("labels", "M"),
    12: ("annotations", "M"),
    14: ("finalizers", "s*"),
}


def _object(*fields: tuple[int, str, str]) -> dict[int, tuple[str, str]]:
    return {1: ("metadata", "ObjectMeta"), **{number: (name, kind) for number, name, kind in fields}}


def _message(text: str) -> dict[int, tuple[str, str]]:
    """`1 key s, 3 values s*`."""
    parts = (item.split() for item in text.split(","))
    return {int(number): (name, kind) for number, name, kind in parts}


_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "ObjectMeta": _META,
    "Namespace": _object((2, "spec", "-"), (3, "status", "-")),
    "ConfigMap": _object((2, "data", "M"), (3, "binaryData", "D"), (4, "immutable", "b?")),
    "Secret": _object((2, "data", "D"), (3, "type", "s"), (4, "stringData", "M"), (5, "immutable", "b?")),
    "ServiceAccount": _object(),
    "Service": _object((2, "spec", "ServiceSpec"), (3, "status", "-")),
    "ServiceSpec": _message(
        "1 ports ServicePort*, 2 selector M, 3 clusterIP s, 4 type s, 5 externalIPs s*, 7 sessionAffinity s, "
        "8 loadBalancerIP s, 9 loadBalancerSourceRanges s*, 10 externalName s, 11 externalTrafficPolicy s, "
        "12 healthCheckNodePort i, 13 publishNotReadyAddresses b, 16 topologyKeys s*, 17 ipFamilyPolicy s, "
        "18 clusterIPs s*, 19 ipFamilies s*, 20 allocateLoadBalancerNodePorts b?, 21 loadBalancerClass s, "
        "22 internalTrafficPolicy s"
    ),
    "ServicePort": _message("1 name s, 2 protocol s, 3 port i, 4 targetPort x, 5 nodePort i, 6 appProtocol s"),
    "Deployment": _object((2, "spec", "DeploymentSpec"), (3, "status", "-")),
    "DeploymentSpec": _message(
        "1 replicas i?, 2 selector LabelSelector?, 3 template PodTemplateSpec, 4 strategy -, 5 minReadySeconds i, "
        "6 revisionHistoryLimit i?, 7 paused b, 9 progressDeadlineSeconds i?"
    ),
    "LabelSelector": _message("1 matchLabels M, 2 matchExpressions LabelSelectorRequirement*"),
    "LabelSelectorRequirement": _message("1 key s, 2 operator s, 3 values s*"),
    "PodTemplateSpec": _object((2, "spec", "PodSpec")),
    "PodSpec": _message(
        "2 containers Container*, 3 restartPolicy s, 4 terminationGracePeriodSeconds i?, 5 activeDeadlineSeconds i?, "
        "6 dnsPolicy s, 7 nodeSelector M, 8 serviceAccountName s, 9 serviceAccount s, 10 nodeName s, 11 hostNetwork b, "
        "12 hostPID b, 13 hostIPC b, 16 hostname s, 17 subdomain s, 19 schedulerName s, 24 priorityClassName s"
    ),
    "Container": _message(
        "1 name s, 2 image s, 3 command s*, 4 args s*, 5 workingDir s, 6 ports ContainerPort*, 7 env EnvVar*, "
        "8 resources -, 13 terminationMessagePath s, 14 imagePullPolicy s, 16 stdin b, 17 stdinOnce b, 18 tty b, "
        "20 terminationMessagePolicy s"
    ),
    "ContainerPort": _message("1 name s, 2 hostPort i, 3 containerPort i, 4 protocol s, 5 hostIP s"),
    "EnvVar": _message("1 name s, 2 value s"),
    "Role": _object((2, "rules", "PolicyRule*")),
    "ClusterRole": _object((2, "rules", "PolicyRule*"), (3, "aggregationRule", "AggregationRule")),
    "AggregationRule": _message("1 clusterRoleSelectors LabelSelector*"),
    "PolicyRule": _message("1 verbs s*, 2 apiGroups s*, 3 resources s*, 4 resourceNames s*, 5 nonResourceURLs s*"),
    "RoleBinding": _object((2, "subjects", "Subject*"), (3, "roleRef", "RoleRef")),
    "ClusterRoleBinding": _object((2, "subjects", "Subject*"), (3, "roleRef", "RoleRef")),
    "Subject": _message("1 kind s, 2 apiGroup s, 3 name s, 4 namespace s"),
    "RoleRef": _message("1 apiGroup s, 2 kind s, 3 name s"),
    "PriorityClass": _object(
        (2, "value", "i"), (3, "globalDefault", "b"), (4, "description", "s"), (5, "preemptionPolicy", "s")
    ),
    "PodDisruptionBudget": _object((2, "spec", "PodDisruptionBudgetSpec"), (3, "status", "-")),
    "PodDisruptionBudgetSpec": _message("1 minAvailable x, 2 selector LabelSelector?, 3 maxUnavailable x"),
    "TokenRequest": _object((2, "spec", "TokenRequestSpec"), (3, "status", "-")),
    "TokenRequestSpec": _message("1 audiences s*, 3 boundObjectRef BoundObjectReference, 4 expirationSeconds i?"),
    "BoundObjectReference": _message("1 kind s, 2 apiVersion s, 3 name s, 4 uid s"),
    "SelfSubjectReview": _object((2, "status", "-")),
    "SelfSubjectAccessReview": _object((2, "spec", "AccessSpec"), (3, "status", "-")),
    "SubjectAccessReview": _object((2, "spec", "AccessSpec"), (3, "status", "-")),
    "LocalSubjectAccessReview": _object((2, "spec", "AccessSpec"), (3, "status", "-")),
    "AccessSpec": _message(
        "1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResourceAttributes, 3 user s, 4 groups s*"
    ),
    "ResourceAttributes": _message(
        "1 namespace s, 2 verb s, 3 group s, 4 version s, 5 resource s, 6 subresource s, 7 name s"
    ),
    "NonResourceAttributes": _message("1 path s, 2 verb s"),
    "SelfSubjectRulesReview": _object((2, "spec", "RulesSpec"), (3, "status", "-")),
    "RulesSpec": _message("1 namespace s"),
    "Eviction": _object((2, "deleteOptions", "DeleteOptions")),
    "DeleteOptions": _message(
        "1 gracePeriodSeconds i?, 2 preconditions Preconditions, 3 orphanDependents b?, 4 propagationPolicy s, "
        "5 dryRun s*"
    ),
    "Preconditions": _message("1 uid s, 2 resourceVersion s"),
    "Unknown": _message("1 typeMeta TypeMeta, 2 raw d, 3 contentEncoding s, 4 contentType s"),
    "TypeMeta": _message("1 apiVersion s, 2 kind s"),
}


class ProtobufError(ValueError):
    """Not a body that we can read."""


def decode(body: bytes) -> Object:
    """The object in an enveloped body; raises `ProtobufError`."""
    if not body.startswith(MAGIC):
        raise ProtobufError("the body does not begin as Kubernetes' protobuf does")
    envelope = _read("Unknown", memoryview(body)[len(MAGIC) :])
    meta, raw = envelope.get("typeMeta") or {}, envelope.get("raw") or b""
    kind = meta.get("kind", "")
    if kind not in _MESSAGES:
        raise ProtobufError(f"{kind} is not read from protobuf; send it as JSON")
    return {"apiVersion": meta.get("apiVersion", ""), "kind": kind, **_read(kind, memoryview(raw))}


def _read(message: str, data: memoryview) -> Object:
    fields = _MESSAGES[message]
    found: Object = {}
    for number, value in _fields(data):
        if number not in fields:
            raise ProtobufError(f"field {number} of {message} is not read from protobuf; send the object as JSON")
        name, kind = fields[number]
        if kind == "-":
            continue
        repeated, kept = kind.endswith("*"), kind.endswith("?")
        item = _value(kind.rstrip("*?"), value)
        if repeated:
            found.setdefault(name, []).append(item)
        elif kind in ("M", "D"):
            found.setdefault(name, {}).update(item)
        elif item or kept or kind == "x":
            found[name] = item
    return found


def _value(kind: str, value: int | memoryview) -> Any:
    if isinstance(value, int):
        if kind not in ("i", "b"):
            raise ProtobufError("a number where there should be none")
        return bool(value) if kind == "b" else value - (1 << 64) if value >> 63 else value
    match kind:
        case "s":
            return str(value, "utf-8")
        case "d":
            return bytes(value)
        case "M" | "D":
            pair = dict(_fields(value))
            key, item = (bytes(pair.get(number, b"")) for number in (1, 2))
            return {key.decode(): item.decode() if kind == "M" else base64.b64encode(item).decode()}
        case "x":
            parts = dict(_fields(value))
            return str(bytes(parts.get(3, b"")), "utf-8") if parts.get(1) else parts.get(2, 0)
        case "i" | "b":
            raise ProtobufError("bytes where there should be a number")
    return _read(kind, value)


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an integer, or the bytes of anything else."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 == 0:
            value, position = _varint(data, position)
            yield tag >> 3, value
        elif tag & 7 == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise ProtobufError("cut short")
            yield tag >> 3, data[position : position + length]
            position += length
        else:
            raise ProtobufError(f"wire type {tag & 7}")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    raise ProtobufError("cut short")
