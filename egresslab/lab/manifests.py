"""Manifests as a learner has them at hand: YAML text, a dictionary, a list of them, or a file.

Pure reading; nothing here talks to a cluster. A document that cannot be an object is refused with its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from egresslab.api.resources import Object
from egresslab.errors import LabError

Manifest = str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""What `Lab.apply` takes."""


def read(source: Manifest) -> list[Object]:
    """The objects of a manifest, in order; a `List` is taken apart.

    A string of one line that ends in .yaml, .yml or .json is a path, any other string is YAML. Raises `LabError` for
    a file that cannot be read, text that is not YAML, and documents without apiVersion, kind or metadata.name.
    """
    if isinstance(source, Path) or (isinstance(source, str) and _is_path(source)):
        return _from_text(_text_of(Path(source)), str(source))
    if isinstance(source, str):
        return _from_text(source, "manifest")
    documents = [source] if isinstance(source, Mapping) else list(source)
    return _objects(documents, "manifest")


def _is_path(text: str) -> bool:
    return "\n" not in text and text.strip().endswith((".yaml", ".yml", ".json"))


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise LabError(f"cannot be read: {error.strerror}", object=str(path)) from error


def _from_text(text: str, origin: str) -> list[Object]:
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise LabError(f"not valid YAML: {error}", object=origin, fix="check the indentation near that line") from error
    return _objects(documents, origin)


def _objects(documents: list[Any], origin: str) -> list[Object]:
    objects: list[Object] = []
    for number, document in enumerate(documents, start=1):
        where = f"{origin}, document {number}"
        if not isinstance(document, Mapping):
            raise LabError("not an object", object=where, value=document)
        if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            objects += _objects(list(document["items"]), where)
            continue
        for field in ("apiVersion", "kind"):
            if not isinstance(document.get(field), str):
                raise LabError("missing", object=where, field=field, fix="every manifest names its apiVersion and kind")
        metadata = document.get("metadata")
        if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
            raise LabError("missing", object=where, field="metadata.name")
        objects.append({**document, "metadata": dict(metadata)})
    if not objects:
        raise LabError("holds no object", object=origin)
    return objects


def pod(
    name: str,
    namespace: str,
    *,
    image: str,
    command: tuple[str, ...] | None,
    labels: Mapping[str, str],
    node: str | None = None,
) -> Object:
    """A pod with one container of that name, kept to `node` by a node selector if given (as the tutorials do it)."""
    container: dict[str, Any] = {"name": name, "image": image}
    if command is not None:
        container["command"] = list(command)
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 1}
    if node is not None:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": spec,
    }
