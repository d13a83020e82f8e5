"""Image names and what they stand for: a table in YAML, given by the environment, read again when its file changes.

Nothing is ever pulled. An image is a recipe: which programs of this machine a container sees, and how it starts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from egresslab.errors import ClusterError

HOST_PATH = f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{sys.prefix}/libexec"
"""Last come programs that were unpacked beside our own, since their package would start a service on this machine."""


class Base(StrEnum):
    """What a container's /usr is: busybox and the listed programs, or all that this machine has."""

    BUSYBOX = "busybox"
    HOST = "host"


class ImageEntry(BaseModel):
    """One row of the table.

    `programs` and `optional` map a program's name to the Debian package that brings it; those in `optional` are left
    out where they are not installed. `paths` are folders of the machine shown read-only, `files` maps a path to its
    content. `python` shows the Python environment that the node itself runs in; `commands` become executables in
    /opt/bin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(min_length=1)
    base: Base = Base.BUSYBOX
    programs: dict[str, str] = {}
    optional: dict[str, str] = {}
    paths: tuple[Path, ...] = ()
    files: dict[Path, str] = {}
    python: bool = False
    commands: dict[str, tuple[str, ...]] = {}
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_dir: str = "/"
    environment: dict[str, str] = {}


class ImageTable(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: tuple[ImageEntry, ...]


class UnknownImage(ClusterError):
    """The table has no such image, or a program it needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that can be run; `programs` maps a name to the file on this machine."""

    id: str
    entry: ImageEntry
    programs: dict[str, Path] = field(default_factory=dict)


def repository(reference: str) -> str:
    """An image reference without registry, tag and digest: `docker.io/library/busybox:1.31.1` is `busybox`."""
    name = reference.split("@", 1)[0]
    head, slash, rest = name.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        name = rest
    stem, _, last = name.rpartition("/")
    last = last.split(":", 1)[0]
    name = f"{stem}/{last}" if stem else last
    return name.removeprefix("library/")


def find_program(name: str) -> Path | None:
    """The file behind a program's name, or None when it is not installed."""
    found = shutil.which(name, path=HOST_PATH)
    return Path(found).resolve() if found else None


def _programs(entry: ImageEntry, reference: str) -> dict[str, Path]:
    needed = dict(entry.programs)
    if entry.base is Base.BUSYBOX:
        needed["busybox"] = "busybox-static"
    found: dict[str, Path] = {}
    for name, package in needed.items():
        path = find_program(name)
        if path is None:
            raise UnknownImage(
                f"the program {name!r}, which this image is made of, is not installed on this machine",
                object=reference,
                fix=f"apt-get install {package}",
            )
        found[name] = path
    return found | {name: path for name in entry.optional if (path := find_program(name)) is not None}


class Images:
    """The table of one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = -1
        self._entries: dict[str, ImageEntry] = {}

    def names(self) -> list[str]:
        """Every name in the table, sorted."""
        self._refresh()
        return sorted(self._entries)

    def resolve(self, reference: str) -> Image:
        """The image for a container's `image`; raises `UnknownImage` with what to do, `ClusterError` for a bad
        table."""
        self._refresh()
        entry = self._entries.get(repository(reference))
        if entry is None:
            raise UnknownImage(
                "images are not pulled here, and this one is not in the node's table",
                object=reference,
                fix=f"use one of {', '.join(self.names())}, or add a row to {self._path}",
            )
        content = json.dumps(entry.model_dump(mode="json"), sort_keys=True).encode()
        return Image(f"sha256:{hashlib.sha256(content).hexdigest()}", entry, _programs(entry, reference))

    def _refresh(self) -> None:
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp == self._stamp:
                return
            table = ImageTable.model_validate(yaml.safe_load(self._path.read_text()))
        except (OSError, yaml.YAMLError) as error:
            raise ClusterError(f"the image table cannot be read: {error}", object=str(self._path)) from error
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ClusterError(first["msg"], object=str(self._path), field=where) from error
        self._entries = {name: entry for entry in table.images for name in entry.names}
        self._stamp = stamp
