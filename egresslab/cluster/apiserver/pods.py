"""A pod as the server completes it (Kubernetes' pod defaults) and judges it.

Workloads' pod templates are completed and judged by the same functions. Nothing here schedules or runs anything.
"""

from __future__ import annotations

import re
from typing import Any

from egresslab.api.faults import FaultKind, FieldFault, forbidden, invalid, required, unsupported
from egresslab.api.resources import Object
from egresslab.cluster.apiserver import podrules
from egresslab.cluster.apiserver.status import ELSEWHERE

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_WORDS = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_GRACE_S = 30
_SPEC_DEFAULTS: dict[str, Any] = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": _GRACE_S,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
}
_PROBE_DEFAULTS = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_VOLUMES = {"name", "emptyDir", "hostPath", "configMap", "secret", "projected", "downwardAPI"}
_SHARED = ("hostPID", "hostIPC", "shareProcessNamespace")
_POLICIES = ["Always", "OnFailure", "Never"]


def prepare(pod: Object, old: Object | None) -> None:
    """Defaults; on create also the first status and the quality-of-service class."""
    spec = pod.setdefault("spec", {})
    complete_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    if old is None:
        pod["status"] = {"phase": "Pending", "qosClass": _quality(spec)}


def complete_spec(spec: Object) -> None:
    """Defaults of a pod's or template's spec."""
    for name, value in _SPEC_DEFAULTS.items():
        if spec.get(name) is None:
            spec[name] = value
    if spec.get("securityContext") is None:
        spec["securityContext"] = {}
    if account := spec.get("serviceAccountName") or spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for group in _CONTAINERS:
        for container in spec.get(group) or ():
            if isinstance(container, dict):
                _complete_container(container, bool(spec.get("hostNetwork")))
    for volume in spec.get("volumes") or ():
        if isinstance(volume, dict):
            _complete_volume(volume)
    for toleration in spec.get("tolerations") or ():
        if not toleration.get("operator") and not toleration.get("key"):
            toleration.setdefault("operator", "Exists")


def _complete_container(container: Object, host_network: bool) -> None:
    image = str(container.get("image") or "")
    tag = image.rpartition("/")[2]
    latest = "@" not in tag and (":" not in tag or tag.endswith(":latest"))
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    resources = container["resources"]
    if isinstance(resources, dict) and resources.get("limits"):
        resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network and port.get("containerPort"):
            port.setdefault("hostPort", port["containerPort"])
    for name in _PROBES:
        probe = container.get(name)
        if isinstance(probe, dict):
            for key, value in _PROBE_DEFAULTS.items():
                probe.setdefault(key, value)
            if isinstance(probe.get("httpGet"), dict):
                probe["httpGet"].setdefault("path", "/")
                probe["httpGet"].setdefault("scheme", "HTTP")
    for variable in container.get("env") or ():
        source = (variable.get("valueFrom") or {}).get("fieldRef")
        if isinstance(source, dict):
            source.setdefault("apiVersion", "v1")


def _complete_volume(volume: Object) -> None:
    if not set(volume) - {"name"}:
        volume["emptyDir"] = {}
    for kind in ("configMap", "secret", "projected", "downwardAPI"):
        if isinstance(volume.get(kind), dict):
            volume[kind].setdefault("defaultMode", 0o644)
    if isinstance(volume.get("hostPath"), dict):
        volume["hostPath"].setdefault("type", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        if isinstance(source.get("serviceAccountToken"), dict):
            source["serviceAccountToken"].setdefault("expirationSeconds", 3600)


def _quality(spec: Object) -> str:
    resources = [c.get("resources") or {} for c in (*spec.get("containers", ()), *spec.get("initContainers", ()))]
    if not any(r.get("requests") or r.get("limits") for r in resources):
        return "BestEffort"
    full = all(
        set(r.get("limits") or ()) >= {"cpu", "memory"} and r.get("requests") == r.get("limits") for r in resources
    )
    return "Guaranteed" if full else "Burstable"


def validate(pod: Object, old: Object | None) -> list[FieldFault]:
    """Faults of a pod; on update, changes to what is fixed for a pod's life."""
    faults = validate_spec(pod.get("spec") or {}, "spec")
    if old is not None and not faults and _fixed(pod["spec"]) != _fixed(old["spec"]):
        faults.append(
            forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`, "
                "`spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to "
                "existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
                "previously negative)",
            )
        )
    return faults


def _fixed(spec: Object) -> Object:
    kept = {
        key: value
        for key, value in spec.items()
        if key not in ("activeDeadlineSeconds", "tolerations", "ephemeralContainers", "nodeName", "schedulingGates")
    }
    for group in ("containers", "initContainers"):
        kept[group] = [{k: v for k, v in c.items() if k != "image"} for c in spec.get(group) or ()]
    return kept


def validate_spec(spec: Object, path: str) -> list[FieldFault]:
    """Faults of a pod's or template's spec."""
    faults: list[FieldFault] = []
    if not spec.get("containers"):
        faults.append(required(f"{path}.containers"))
    faults += [forbidden(f"{path}.{name}", ELSEWHERE) for name in _SHARED if spec.get(name)]
    volumes: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or ()):
        faults += _named(volume.get("name"), f"{path}.volumes[{index}].name", volumes)
        faults += [forbidden(f"{path}.volumes[{index}].{kind}", ELSEWHERE) for kind in {*volume} - _VOLUMES]
        faults += podrules.volume(volume, f"{path}.volumes[{index}]")
    names: set[str] = set()
    for group in _CONTAINERS:
        for index, container in enumerate(spec.get(group) or ()):
            here = f"{path}.{group}[{index}]"
            faults += _named(container.get("name"), f"{here}.name", names)
            faults += _container(container, here, volumes)
            faults += podrules.container(container, here)
    faults += podrules.placement(spec, path)
    if (hostname := spec.get("hostname")) and not _LABEL.fullmatch(hostname):
        faults.append(invalid(f"{path}.hostname", hostname, _LABEL_WORDS))
    if spec.get("restartPolicy") not in _POLICIES:
        faults.append(unsupported(f"{path}.restartPolicy", spec.get("restartPolicy"), _POLICIES))
    return faults


def _named(name: Any, path: str, seen: set[str]) -> list[FieldFault]:
    if not name:
        return [required(path)]
    if not _LABEL.fullmatch(name):
        return [invalid(path, name, _LABEL_WORDS)]
    if name in seen:
        return [FieldFault(path, FaultKind.DUPLICATE, name)]
    seen.add(name)
    return []


def _container(container: Object, path: str, volumes: set[str]) -> list[FieldFault]:
    faults = []
    image = container.get("image")
    if not image:
        faults.append(required(f"{path}.image"))
    elif image != image.strip():
        faults.append(invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    for index, port in enumerate(container.get("ports") or ()):
        number = port.get("containerPort")
        if not isinstance(number, int) or not 0 < number < 65536:
            faults.append(
                invalid(f"{path}.ports[{index}].containerPort", number, "must be between 1 and 65535, inclusive")
            )
    for index, variable in enumerate(container.get("env") or ()):
        if not variable.get("name"):
            faults.append(required(f"{path}.env[{index}].name"))
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        where = f"{path}.volumeMounts[{index}]"
        if not mount.get("mountPath"):
            faults.append(required(f"{where}.mountPath"))
        if mount.get("name") not in volumes:
            faults.append(FieldFault(f"{where}.name", FaultKind.NOT_FOUND, mount.get("name")))
    return faults
