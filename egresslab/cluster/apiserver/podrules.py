"""What a pod's parts may say, part by part, in kube-apiserver's words: paths, variables, handlers, tolerations.

Paths are the ones that matter most: whatever leaves a volume by "..", is refused here before a kubelet sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from egresslab.api.faults import FieldFault, forbidden, invalid, required
from egresslab.api.resources import Object
from egresslab.cluster.apiserver import metadata
from egresslab.cluster.quantities import parse_quantity

_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_KEY_WORDS = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
_VARIABLE = re.compile(r"[ -<>-~]+")
_VARIABLE_WORDS = "a valid environment variable name must consist only of printable ASCII characters other than '='"
_FIELD = re.compile(
    r"metadata\.(name|namespace|uid|(labels|annotations)\['[^']+'\])|spec\.(nodeName|serviceAccountName)"
    r"|status\.(hostIPs?|podIPs?)"
)
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_UP = "must not contain '..'"
_AFFINITIES = ("podAffinity", "podAntiAffinity")


def keys(data: Any, path: str) -> Iterator[FieldFault]:
    """Keys of a ConfigMap or Secret, which become names of files."""
    for key in data or {}:
        where = f"{path}[{key}]"
        if not _KEY.fullmatch(key):
            yield invalid(where, key, _KEY_WORDS)
        if key in (".", ".."):
            yield invalid(where, key, f"must not be '{key}'")
        elif key.startswith(".."):
            yield invalid(where, key, "must not start with '..'")


def _inside(value: Any, path: str) -> Iterator[FieldFault]:
    """A path that stays below where it begins."""
    if not isinstance(value, str):
        return
    if value.startswith("/"):
        yield invalid(path, value, "must be a relative path")
    if ".." in value.split("/"):
        yield invalid(path, value, _UP)


def volume(spec: Object, path: str) -> Iterator[FieldFault]:
    """Where a volume comes from and where its files go."""
    host = (spec.get("hostPath") or {}).get("path")
    if isinstance(host, str) and ".." in host.split("/"):
        yield invalid(f"{path}.hostPath.path", host, _UP)
    for kind in ("configMap", "secret"):
        for index, item in enumerate((spec.get(kind) or {}).get("items") or ()):
            yield from _inside(item.get("path"), f"{path}.{kind}.items[{index}].path")
    for item in (spec.get("downwardAPI") or {}).get("items") or ():
        yield from _inside(item.get("path"), f"{path}.downwardAPI.path")
    for source in (spec.get("projected") or {}).get("sources") or ():
        for part in (value for value in source.values() if isinstance(value, dict)):
            for item in (part, *(part.get("items") or ())):
                yield from _inside(item.get("path"), f"{path}.projected.path")


def container(spec: Object, path: str) -> Iterator[FieldFault]:
    """Variables, resources, handlers and mounts of a container."""
    for index, variable in enumerate(spec.get("env") or ()):
        where, name = f"{path}.env[{index}]", variable.get("name")
        if name and not _VARIABLE.fullmatch(name):
            yield invalid(f"{where}.name", name, _VARIABLE_WORDS)
        field = ((variable.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
        if field and not _FIELD.fullmatch(field):
            words = f"error converting fieldPath: field label not supported: {field}"
            yield invalid(f"{where}.valueFrom.fieldRef.fieldPath", field, words)
    yield from _resources(spec.get("resources") or {}, f"{path}.resources")
    for name, hook in (spec.get("lifecycle") or {}).items():
        if isinstance(hook, dict):
            yield from _handler(hook, f"{path}.lifecycle.{name}")
    for name in _PROBES:
        if isinstance(spec.get(name), dict):
            yield from _handler(spec[name], f"{path}.{name}")
    places = set()
    for index, mount in enumerate(spec.get("volumeMounts") or ()):
        if mount.get("mountPath") in places:
            yield invalid(f"{path}.volumeMounts[{index}].mountPath", mount["mountPath"], "must be unique")
        places.add(mount.get("mountPath"))
        yield from _inside(mount.get("subPath"), f"{path}.volumeMounts.subPath")


def _resources(spec: Object, path: str) -> Iterator[FieldFault]:
    limits = spec.get("limits") or {}
    for name, value in (spec.get("requests") or {}).items():
        try:
            over = name in limits and parse_quantity(value) > parse_quantity(limits[name])
        except ValueError:
            continue
        if over:
            yield invalid(f"{path}.requests", value, f"must be less than or equal to {name} limit of {limits[name]}")


def _handler(spec: Object, path: str) -> Iterator[FieldFault]:
    given = [name for name in _HANDLERS if spec.get(name) is not None]
    if not given:
        yield required(path, "must specify a handler type")
    for name in given[1:]:
        yield forbidden(f"{path}.{name}", "may not specify more than 1 handler type")


def placement(spec: Object, path: str) -> Iterator[FieldFault]:
    """Where a pod may go: selector, tolerations and affinity to other pods."""
    yield from metadata.judge_labels(spec.get("nodeSelector"), f"{path}.nodeSelector")
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        if toleration.get("operator") == "Exists" and toleration.get("value"):
            words = "value must be empty when `operator` is 'Exists'"
            yield invalid(f"{path}.tolerations[{index}].operator", toleration["value"], words)
    for kind in _AFFINITIES:
        rules = (spec.get("affinity") or {}).get(kind) or {}
        when = "requiredDuringSchedulingIgnoredDuringExecution"
        for index, term in enumerate(rules.get(when) or ()):
            if not term.get("topologyKey"):
                yield required(f"{path}.affinity.{kind}.{when}[{index}].topologyKey", "can not be empty")
