"""Objects for offline commands: from files, folders and standard input, each with the place where it was written."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from egresslab.errors import PolicyError

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
STDIN = "-"
_MARKER = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

UNREADABLE = (yaml.YAMLError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError)
"""What PyYAML raises for texts that are not YAML, or whose tags promise what the text does not hold."""


@dataclass(slots=True)
class Document:
    """One object and where it stands; `origin` is the file as the user named it."""

    obj: Any
    origin: str
    line: int
    tree: yaml.Node | None = None

    def line_of(self, path: str) -> int:
        """Line of a field such as `spec.selectors[0].podSelector`, or of the nearest part of the path that is there."""
        node, line = self.tree, self.line
        for name, index in _STEP.findall(path):
            found = None
            if isinstance(node, yaml.MappingNode) and name:
                found = next((pair for pair in node.value if pair[0].value == name), None)
            elif isinstance(node, yaml.SequenceNode) and index and int(index) < len(node.value):
                found = (node.value[int(index)],) * 2
            if found is None:
                return line
            line, node = self.line + found[0].start_mark.line, found[1]
        return line


@dataclass(slots=True)
class Manifests:
    """What was read, and what could not be."""

    documents: list[Document] = field(default_factory=list)
    errors: list[PolicyError] = field(default_factory=list)


def load(paths: Iterable[str]) -> Manifests:
    """All documents below the paths, `-` being standard input. Raises `PolicyError` for a path that cannot be read.

    A document that is not YAML becomes one of `errors`; those beside it are read all the same.
    """
    found = Manifests()
    for path in paths:
        for origin, text in _texts(path):
            _read(origin, text, found)
    return found


def _texts(path: str) -> Iterator[tuple[str, str]]:
    if path == STDIN:
        yield "stdin", sys.stdin.read()
        return
    root = Path(path)
    files = sorted(f for f in root.rglob("*") if f.suffix in SUFFIXES and f.is_file()) if root.is_dir() else [root]
    for file in files:
        try:
            yield str(file), file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise PolicyError(
                f"cannot be read: {reason}", object=str(file), fix="name a file or folder of YAML or JSON"
            ) from error


def _read(origin: str, text: str, found: Manifests) -> None:
    """Documents are parted at their markers before they are parsed, so that a broken one spoils no other."""
    starts = [0, *(match.start() for match in _MARKER.finditer(text)), len(text)]
    for start, end in pairwise(starts):
        part = text[start:end]
        line = text.count("\n", 0, start) + 1
        try:
            for tree, obj in _parse(part):
                _unpack(Document(obj, origin, line, tree), found)
        except UNREADABLE as error:
            mark = getattr(error, "problem_mark", None)
            at = line + mark.line if mark is not None else line
            reason = getattr(error, "problem", None) or str(error) or type(error).__name__
            found.errors.append(
                PolicyError(f"not YAML: {str(reason)[:200]}", object=f"{origin}:{at}", fix="correct the document")
            )


def _parse(text: str) -> Iterator[tuple[yaml.Node | None, Any]]:
    if text.lstrip().startswith("{"):
        # Tabs are allowed in JSON and not in YAML.
        try:
            yield None, json.loads(text)
            return
        except ValueError:
            pass
    loader = LOADER(text)
    try:
        while loader.check_node():
            tree = loader.get_node()
            yield tree, loader.construct_document(tree)
    finally:
        loader.dispose()


def _unpack(document: Document, found: Manifests) -> None:
    """Lists (`kubectl get -o yaml`) become their items."""
    obj = document.obj
    if obj is None:
        return
    if not isinstance(obj, dict):
        found.errors.append(
            PolicyError(
                "not a Kubernetes object",
                object=f"{document.origin}:{document.line}",
                fix="write apiVersion, kind, metadata and spec",
            )
        )
        return
    kind, items = obj.get("kind"), obj.get("items")
    if not (isinstance(kind, str) and kind.endswith("List") and isinstance(items, list)):
        found.documents.append(document)
        return
    for index, item in enumerate(items):
        if isinstance(item, dict) and kind != "List":
            item.setdefault("kind", kind.removesuffix("List"))
            item.setdefault("apiVersion", obj.get("apiVersion"))
        tree = _child(document.tree, index)
        line = document.line_of(f"items[{index}]")
        _unpack(Document(item, document.origin, line - (tree.start_mark.line if tree else 0), tree), found)


def _child(tree: yaml.Node | None, index: int) -> yaml.Node | None:
    if isinstance(tree, yaml.MappingNode):
        for key, value in tree.value:
            if key.value == "items" and isinstance(value, yaml.SequenceNode):
                child: yaml.Node = value.value[index]
                return child
    return None
