"""Schemas of the built-in kinds.

They are read off the official client's models (`modelling`), which takes longer to import than all the rest of the API
server. So what was read is kept beside the bytecode, and like bytecode it counts only for the sources it was made from.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from egresslab.api.schema import Schema, reference
from egresslab.cluster.apiserver import declarations
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.naming import component, model_name, models_of

_SOURCES = ("modelling.py", "naming.py", "declarations.py")


class UnknownType(KeyError):
    """No model of that name in the client."""


def _file() -> Path:
    return Path(importlib.util.cache_from_source(__file__)).with_name("schemas.json")


def _stamp() -> list[Any]:
    """What the kept schemas were made from."""
    states = [(Path(__file__).with_name(name)).stat() for name in _SOURCES]
    return [importlib.metadata.version("kubernetes"), *([state.st_size, state.st_mtime_ns] for state in states)]


@cache
def _kept() -> dict[str, dict[str, Any] | None]:
    """Schemas by model, None for no such model, as they were kept; empty where they never were, or are out of date."""
    try:
        stamp, schemas = orjson.loads(_file().read_bytes())
    except (OSError, ValueError, TypeError):
        return {}
    return schemas if stamp == _stamp() else {}


def keep() -> None:
    """Read every type now and keep it for the next process, unless that is done; a place that is read-only stays so."""
    if _kept():
        return
    for kind in declarations.BUILT_IN:
        with suppress(UnknownType):
            components(model_name(kind))
    draft = _file().with_name(f".schemas.{os.getpid()}")
    with suppress(OSError):
        draft.write_bytes(orjson.dumps([_stamp(), _read]))
        draft.replace(_file())


_read: dict[str, dict[str, Any] | None] = {}


def _find(model: str) -> dict[str, Any] | None:
    if model in _kept():
        return _kept()[model]
    if model not in _read:
        _read[model] = importlib.import_module("egresslab.cluster.apiserver.modelling").read(model)
    return _read[model]


def raw(model: str) -> dict[str, Any]:
    """The OpenAPI schema of a model, with `$ref`s to others, not to be changed; raises `UnknownType`."""
    found = _find(model)
    if found is None:
        raise UnknownType(model)
    return found


_compiled: dict[str, Schema] = {}


def _resolve(ref: str) -> Schema:
    return schema_of_model(_models_by_component(reference(ref)))


@cache
def _models_by_component(name: str) -> str:
    for candidate in models_of(name):
        if component(candidate) == name and _find(candidate) is not None:
            return candidate
    raise UnknownType(name)


def schema_of_model(model: str) -> Schema:
    """The compiled schema of a model; recursive types refer to themselves."""
    known = _compiled.get(model)
    if known is None:
        known = _compiled[model] = Schema.__new__(Schema)
        known.__init__(raw(model), _resolve)  # type: ignore[misc]
    return known


def schema_of(kind: ResourceType) -> Schema | None:
    """The compiled schema of a kind, built-in or custom; None where there is none."""
    if kind.custom:
        return kind.schema if isinstance(kind.schema, Schema) else None
    try:
        return schema_of_model(model_name(kind))
    except UnknownType:
        return None


def components(model: str) -> dict[str, Any]:
    """OpenAPI components of a model and all that it refers to."""
    found: dict[str, Any] = {}
    waiting = [model]
    while waiting:
        current = waiting.pop()
        name = component(current)
        if name in found:
            continue
        found[name] = raw(current)
        waiting += [_models_by_component(reference(ref)) for ref in _references(found[name])]
    return found


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for item in value.values() for ref in _references(item)]
    return [ref for item in value for ref in _references(item)] if isinstance(value, list) else []
