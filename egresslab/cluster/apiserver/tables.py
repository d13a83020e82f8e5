"""Tables (meta.k8s.io/v1 `Table`): what `kubectl get` prints is laid out by the server.

Columns of built-in kinds come from `columns`, those of custom resources from their definition's
additionalPrinterColumns. A kind without either gets NAME and AGE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from egresslab.api.resources import Object
from egresslab.cluster.apiserver import columns
from egresslab.cluster.apiserver.ages import age
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.jsonpath import find
from egresslab.cluster.apiserver.store import Entry

_API_VERSION = "meta.k8s.io/v1"


def table(kind: ResourceType, entries: Sequence[Entry], metadata: Object, include: str) -> Object:
    """The Table of some entries; `include` is what each row carries: Object, Metadata or None."""
    heads, cells = _layout(kind)
    rows = []
    for entry in entries:
        obj = entry.object()
        row: Object = {"cells": cells(obj)}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = {"kind": "PartialObjectMetadata", "apiVersion": _API_VERSION, "metadata": obj["metadata"]}
        rows.append(row)
    return empty(metadata, None) | {"columnDefinitions": heads, "rows": rows}


def empty(metadata: Object, row: Object | None) -> Object:
    """A Table without columns; with one cell-less row for a bookmark's object."""
    rows = [] if row is None else [{"cells": [], "object": row}]
    return {
        "kind": "Table",
        "apiVersion": _API_VERSION,
        "metadata": metadata,
        "columnDefinitions": [],
        "rows": rows,
    }


def _layout(kind: ResourceType) -> tuple[list[Object], columns.Cells]:
    if not kind.custom:
        builtin = columns.BUILT_IN.get(kind.bucket, columns.DEFAULT)
        return [head.definition() for head in builtin.heads], builtin.cells
    if not kind.columns:
        return [head.definition() for head in columns.DEFAULT.heads], columns.DEFAULT.cells
    heads = [columns.NAME.definition()]
    heads += [
        columns.Head(column.name, column.type, column.priority, column.format, column.description).definition()
        for column in kind.columns
    ]

    def cells(obj: Object) -> list[Any]:
        return [obj["metadata"]["name"], *(_cell(obj, column.path, column.type) for column in kind.columns)]

    return heads, cells


def _cell(obj: Object, path: str, kind: str) -> Any:
    values = find(obj, path)
    if not values:
        return None
    value = values[0]
    match kind:
        case "date":
            return age(value if isinstance(value, str) else None)
        case "integer" | "number" if isinstance(value, int | float):
            return value
        case "boolean" if isinstance(value, bool):
            return value
        case "string":
            return value if isinstance(value, str) else columns.text(value)
    return None
