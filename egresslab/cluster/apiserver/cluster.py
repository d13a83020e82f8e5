"""The plainer kinds as the server completes and judges them: nodes, namespaces, secrets, config maps, roles' bindings,
priority classes and webhook configurations.
"""

from __future__ import annotations

import base64
import binascii

from egresslab.api.faults import FieldFault, forbidden, invalid, required, unsupported
from egresslab.api.resources import Object
from egresslab.cluster.apiserver import podrules

_RBAC = "rbac.authorization.k8s.io"
_EFFECTS = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
_HIGHEST_PRIORITY = 1_000_000_000


def prepare_node(obj: Object, old: Object | None) -> None:
    """A node always has a spec and a status."""
    obj.setdefault("spec", {})
    obj.setdefault("status", {})


def validate_node(obj: Object, old: Object | None) -> list[FieldFault]:
    """Taints, and the pod CIDRs that never change."""
    faults, seen = [], set()
    for index, taint in enumerate(obj["spec"].get("taints") or ()):
        path = f"spec.taints[{index}]"
        if not taint.get("key"):
            faults.append(required(f"{path}.key"))
        if taint.get("effect") not in _EFFECTS:
            faults.append(unsupported(f"{path}.effect", taint.get("effect"), _EFFECTS))
        mark = (taint.get("key"), taint.get("effect"))
        if mark in seen:
            faults.append(invalid(path, taint, "taints must be unique by key and effect pair"))
        seen.add(mark)
    before = (old or {}).get("spec", {}).get("podCIDRs")
    if before and obj["spec"].get("podCIDRs") != before:
        faults.append(forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid'))
    return faults


def prepare_namespace(obj: Object, old: Object | None) -> None:
    """The label with its own name, the finalizer that empties it, its phase."""
    metadata = obj["metadata"]
    metadata["labels"] = {**(metadata.get("labels") or {}), "kubernetes.io/metadata.name": metadata["name"]}
    if old is None:
        obj.setdefault("spec", {})["finalizers"] = ["kubernetes"]
        obj["status"] = {"phase": "Active"}
    else:
        obj["spec"] = old.get("spec") or {}


def prepare_secret(obj: Object, old: Object | None) -> None:
    """Plain text moves to data."""
    obj.setdefault("type", "Opaque")
    plain = obj.pop("stringData", None)
    if isinstance(plain, dict):
        coded = {key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()}
        obj["data"] = {**(obj.get("data") or {}), **coded}


def validate_secret(obj: Object, old: Object | None) -> list[FieldFault]:
    """Data is base64; an immutable secret stays as it is."""
    faults = [*_unchanged(obj, old), *podrules.keys(obj.get("data"), "data")]
    for key, value in (obj.get("data") or {}).items():
        try:
            base64.b64decode(value or "", validate=True)
        except (binascii.Error, TypeError):
            faults.append(invalid(f"data[{key}]", "<redacted>", "must be base64"))
    return faults


def validate_config_map(obj: Object, old: Object | None) -> list[FieldFault]:
    """An immutable config map stays as it is."""
    names = [fault for part in ("data", "binaryData") for fault in podrules.keys(obj.get(part), part)]
    return _unchanged(obj, old) + names


def _unchanged(obj: Object, old: Object | None) -> list[FieldFault]:
    if old is None or not old.get("immutable"):
        return []
    faults = []
    if not obj.get("immutable"):
        faults.append(forbidden("immutable", "field is immutable when `immutable` is set"))
    for field in ("data", "binaryData"):
        if obj.get(field) != old.get(field):
            faults.append(forbidden(field, "field is immutable when `immutable` is set"))
    return faults


def validate_revision(obj: Object, old: Object | None) -> list[FieldFault]:
    """What a ControllerRevision holds never changes."""
    changed = old is not None and old.get("data") != obj.get("data")
    return [invalid("data", obj.get("data"), "field is immutable")] if changed else []


def prepare_priority_class(obj: Object, old: Object | None) -> None:
    """Preemption is the rule."""
    obj.setdefault("preemptionPolicy", "PreemptLowerPriority")


def validate_priority_class(obj: Object, old: Object | None) -> list[FieldFault]:
    """The value is bounded and fixed."""
    faults = []
    value = obj.get("value") or 0
    if value > _HIGHEST_PRIORITY and not obj["metadata"]["name"].startswith("system-"):
        words = f"maximum allowed value of a user defined priority is {_HIGHEST_PRIORITY}"
        faults.append(forbidden("value", words))
    if old is not None and old.get("value") != obj.get("value"):
        faults.append(forbidden("value", "may not be changed in an update."))
    return faults


def prepare_binding(obj: Object, old: Object | None) -> None:
    """API groups of role and subjects."""
    if isinstance(obj.get("roleRef"), dict):
        obj["roleRef"].setdefault("apiGroup", _RBAC)
    for subject in obj.get("subjects") or ():
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", _RBAC)


def validate_binding(obj: Object, old: Object | None) -> list[FieldFault]:
    """The role of a binding is fixed; a service account has a namespace."""
    faults = []
    role = obj.get("roleRef") or {}
    if not role.get("name"):
        faults.append(required("roleRef.name"))
    if role.get("kind") not in ("Role", "ClusterRole"):
        faults.append(unsupported("roleRef.kind", role.get("kind"), ["Role", "ClusterRole"]))
    if old is not None and old.get("roleRef") != role:
        shown = {"APIGroup": role.get("apiGroup"), "Kind": role.get("kind"), "Name": role.get("name")}
        faults.append(invalid("roleRef", shown, "field is immutable"))
    for index, subject in enumerate(obj.get("subjects") or ()):
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            faults.append(required(f"subjects[{index}].namespace"))
    return faults


def prepare_webhooks(obj: Object, old: Object | None) -> None:
    """Defaults of webhooks."""
    for webhook in obj.get("webhooks") or ():
        for name, value in (("failurePolicy", "Fail"), ("matchPolicy", "Equivalent"), ("timeoutSeconds", 10)):
            webhook.setdefault(name, value)
        for name in ("namespaceSelector", "objectSelector"):
            webhook.setdefault(name, {})
        if "Mutating" in obj["kind"]:
            webhook.setdefault("reinvocationPolicy", "Never")
