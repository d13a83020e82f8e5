"""What a schema says about one value beyond its type: bounds, patterns, formats, enumerations and combinations.

Messages follow kube-openapi's validation package, which prints them in an API server's answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from egresslab.api.faults import OMITTED, FaultKind, FieldFault, invalid, unsupported
from egresslab.api.formats import FORMATS


def check_value(raw: Mapping[str, Any], value: Any, path: str) -> Iterator[FieldFault]:
    """Faults of a value of the right type against the keywords of a schema node."""
    if "enum" in raw and value not in raw["enum"]:
        yield unsupported(path, value, [str(choice) for choice in raw["enum"]])
    if isinstance(value, str):
        yield from _text(raw, value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(raw, value, path)
    elif isinstance(value, list):
        yield from _list(raw, value, path)
    elif isinstance(value, dict):
        if (most := raw.get("maxProperties")) is not None and len(value) > most:
            yield FieldFault(path, FaultKind.TOO_MANY, len(value), f"must have at most {most} items")
        if (least := raw.get("minProperties")) is not None and len(value) < least:
            yield invalid(path, len(value), f"{path} in body should have at least {least} properties")
    yield from _combinations(raw, value, path)


def _text(raw: Mapping[str, Any], value: str, path: str) -> Iterator[FieldFault]:
    if (most := raw.get("maxLength")) is not None and len(value) > most:
        yield FieldFault(path, FaultKind.TOO_LONG, value, f"may not be more than {most} bytes")
    if (least := raw.get("minLength")) is not None and len(value) < least:
        yield invalid(path, value, f"{path} in body should be at least {least} chars long")
    if (pattern := raw.get("pattern")) and not _compiled(pattern).search(value):
        yield invalid(path, value, f"{path} in body should match '{pattern}'")
    if (name := raw.get("format")) and (valid := FORMATS.get(name)) is not None and not valid(value):
        yield FieldFault(path, FaultKind.TYPE_INVALID, value, f'{path} in body must be of type {name}: "{value}"')


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _number(raw: Mapping[str, Any], value: float, path: str) -> Iterator[FieldFault]:
    if (most := raw.get("maximum")) is not None and (value >= most if raw.get("exclusiveMaximum") else value > most):
        word = "less than" if raw.get("exclusiveMaximum") else "less than or equal to"
        yield invalid(path, value, f"{path} in body should be {word} {most}")
    if (least := raw.get("minimum")) is not None and (value <= least if raw.get("exclusiveMinimum") else value < least):
        word = "greater than" if raw.get("exclusiveMinimum") else "greater than or equal to"
        yield invalid(path, value, f"{path} in body should be {word} {least}")
    if (step := raw.get("multipleOf")) and value % step:
        yield invalid(path, value, f"{path} in body should be a multiple of {step}")


def _list(raw: Mapping[str, Any], value: list[Any], path: str) -> Iterator[FieldFault]:
    if (most := raw.get("maxItems")) is not None and len(value) > most:
        yield FieldFault(path, FaultKind.TOO_MANY, len(value), f"must have at most {most} items")
    if (least := raw.get("minItems")) is not None and len(value) < least:
        yield invalid(path, len(value), f"{path} in body should have at least {least} items")
    if raw.get("uniqueItems") and len({orjson.dumps(item) for item in value}) < len(value):
        yield invalid(path, OMITTED, f"{path} in body shouldn't contain duplicates")


def _combinations(raw: Mapping[str, Any], value: Any, path: str) -> Iterator[FieldFault]:
    shown = value if not isinstance(value, dict | list) else ""
    quoted = f'"{path}"'
    if "allOf" in raw and not all(_sound(part, value) for part in raw["allOf"]):
        for part in raw["allOf"]:
            yield from _inner(part, value, path)
        yield invalid(path, shown, f"{quoted} must validate all the schemas (allOf)")
    if "anyOf" in raw and not any(_sound(part, value) for part in raw["anyOf"]):
        yield invalid(path, shown, f"{quoted} must validate at least one schema (anyOf)")
    if "oneOf" in raw:
        valid = sum(_sound(part, value) for part in raw["oneOf"])
        if valid != 1:
            found = "none" if valid == 0 else str(valid)
            detail = f"{quoted} must validate one and only one schema (oneOf). Found {found} valid"
            yield invalid(path, shown, detail)
            if valid == 0:
                yield from min((list(_inner(part, value, path)) for part in raw["oneOf"]), key=len)
    if "not" in raw and _sound(raw["not"], value):
        yield invalid(path, shown, f"{quoted} must not validate the schema (not)")


def _inner(part: Mapping[str, Any], value: Any, path: str) -> Iterator[FieldFault]:
    """Faults against a part of a combination; such a part has no types, only keywords (structural schemas)."""
    if isinstance(value, dict):
        for name in part.get("required") or ():
            if name not in value:
                yield FieldFault(f"{path}.{name}" if path else name, FaultKind.REQUIRED)
        for name, child in (part.get("properties") or {}).items():
            if name in value:
                yield from _inner(child, value[name], f"{path}.{name}" if path else name)
    elif isinstance(value, list) and isinstance(part.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from _inner(part["items"], item, f"{path}[{index}]")
    yield from check_value(part, value, path)


def _sound(part: Mapping[str, Any], value: Any) -> bool:
    return next(_inner(part, value, ""), None) is None
