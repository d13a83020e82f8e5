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
_ONLY_DIRECTIVES = re.compile(r"([ \t\r]*([%#][^\n]*)?\n)*+")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)

UNREADABLE = (yaml.YAMLError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError)
"""What PyYAML raises for texts that are not YAML, or whose tags promise what the text does not hold."""


def _loader() -> Any:
    """PyYAML's safe loader, but what Kubernetes' readers take for text is text: dates, `=`, and numbers to base 60, for
    which an IPv6 address of digits alone is taken otherwise."""
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    own = {"timestamp", "value", "int", "float"}
    kept = {
        first: [pair for pair in pairs if pair[0].rpartition(":")[2] not in own]
        for first, pairs in base.yaml_implicit_resolvers.items()
    }
    made: Any = type("ManifestLoader", (base,), {"yaml_implicit_resolvers": kept})
    for tag, form in (("int", _INTEGER), ("float", _FLOAT)):
        whole = re.compile(f"(?:{form.pattern})$")
        made.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", whole, list("-+.0123456789"))
    return made


LOADER = _loader()


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

    A document that is not YAML, or a file of a folder that is no text, becomes one of `errors`; those beside it are
    read all the same.
    """
    found = Manifests()
    for path in paths:
        for origin, text in _texts(path, found):
            _read(origin, text, found)
    return found


def _texts(path: str, found: Manifests) -> Iterator[tuple[str, str]]:
    if path == STDIN:
        try:
            yield "stdin", sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise PolicyError("cannot be read: not UTF-8 text", object="stdin", fix="pipe in YAML or JSON") from error
        return
    root = Path(path)
    files = sorted(f for f in root.rglob("*") if f.suffix in SUFFIXES and f.is_file()) if root.is_dir() else [root]
    for file in files:
        try:
            yield str(file), file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            unreadable = PolicyError(
                f"cannot be read: {reason}", object=str(file), fix="name a file or folder of YAML or JSON"
            )
            if file is root:
                raise unreadable from error
            found.errors.append(unreadable)


def _read(origin: str, text: str, found: Manifests) -> None:
    """Documents are parted at their markers before they are parsed, so that a broken one spoils no other."""
    markers = [match.start() for match in _MARKER.finditer(text)]
    if markers and "%" in text[: markers[0]] and _ONLY_DIRECTIVES.fullmatch(text[: markers[0]]):
        del markers[0]  # they belong to the document that follows
    starts = [0, *markers, len(text)]
    for start, end in pairwise(starts):
        part = text[start:end]
        line = text.count("\n", 0, start) + 1
        try:
            for tree, obj, below in _parse(part):
                _unpack(Document(obj, origin, line + below, tree), found)
        except UNREADABLE as error:
            mark = getattr(error, "problem_mark", None)
            at = line + mark.line if mark is not None else line
            reason = getattr(error, "problem", None) or str(error) or type(error).__name__
            found.errors.append(
                PolicyError(f"not YAML: {str(reason)[:200]}", object=f"{origin}:{at}", fix="correct the document")
            )


def _parse(text: str) -> Iterator[tuple[yaml.Node | None, Any, int]]:
    """Objects with their trees, where there are any, and the lines that stand before one without."""
    if text.lstrip().startswith("{"):
        # Tabs are allowed in JSON and not in YAML.
        try:
            yield from [(None, obj, text.count("\n", 0, start)) for obj, start in _json(text)]
            return
        except ValueError:
            pass
    loader = LOADER(text)
    try:
        while loader.check_node():
            tree = loader.get_node()
            yield tree, loader.construct_document(tree), 0
    finally:
        loader.dispose()


def _json(text: str) -> Iterator[tuple[Any, int]]:
    """JSON values one after another, as `kubectl get -o json` writes them when called again, each with its start."""
    decoder = json.JSONDecoder()
    at = _past_blanks(text, 0)
    while at < len(text):
        obj, end = decoder.raw_decode(text, at)
        yield obj, at
        at = _past_blanks(text, end)


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


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
