"""The CustomResourceDefinitions that the package ships, as definitions to install and as schemas to check objects by.

The YAML files below `crds/` are what real clusters get, too; this module only reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from egresslab.api.faults import FieldFault, invalid
from egresslab.api.resources import Object
from egresslab.api.schema import Schema, fill_defaults, prune, validate

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def _texts() -> tuple[tuple[str, str], ...]:
    folder = resources.files("egresslab.api") / "crds"
    found = ((item.name, item.read_text(encoding="utf-8")) for item in folder.iterdir() if item.name.endswith(".yaml"))
    return tuple(sorted(found))


def definitions() -> list[Object]:
    """Every shipped CustomResourceDefinition, fresh."""
    return [yaml.load(text, Loader=_LOADER) for _, text in _texts()]


@cache
def _schemas() -> Mapping[tuple[str, str], Schema]:
    found = {}
    for definition in definitions():
        spec = definition["spec"]
        for version in spec["versions"]:
            place = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[place] = Schema(version["schema"]["openAPIV3Schema"])
    return found


def schema(api_version: str, kind: str) -> Schema | None:
    """The schema of a shipped kind, or None for any other."""
    return _schemas().get((api_version, kind))


def check(obj: Object) -> list[FieldFault]:
    """Faults of an object of a shipped kind as an API server would find them, unknown fields included; the object is
    left as it is. Objects of other kinds have none.
    """
    found = schema(str(obj.get("apiVersion")), str(obj.get("kind")))
    if found is None:
        return []
    copy = _copy(obj)
    faults = [invalid(path, _at(obj, path), "unknown field") for path in prune(found, copy, root=True)]
    fill_defaults(found, copy)
    return faults + validate(found, copy)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _at(obj: Any, path: str) -> Any:
    """The value at a path, for messages."""
    for part in path.replace("]", "").replace("[", ".").split("."):
        if isinstance(obj, list):
            obj = obj[int(part)]
        elif isinstance(obj, dict):
            obj = obj.get(part)
    return obj
