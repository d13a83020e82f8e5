"""What a node's machine is made from: Debian's suite and packages, the kernel, our Python dependencies, the start-up
scripts. Its checksum is the name under which the result is kept, so a change of any of it makes a new one.

Pure but for reading the definitions; nothing is made here.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from egresslab.environments.definitions import definitions
from egresslab.errors import EnvironmentFailure

FORMAT = 1
"""Of what is made from a recipe; counted up when the same recipe comes to mean something else."""
DISTRIBUTION = "egresslab"
SCRIPTS = ("initrd", "inittab")
"""Those that are part of the system. What they start is on the project's disk."""
APT_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Model):
    """What every machine gets."""

    memory_mib: int = Field(ge=256)
    cores: int = Field(ge=1)
    disk_mib: int = Field(ge=1024)


class System(_Model):
    """What its root file system and its kernel are made of."""

    suite: str
    python: str
    mirror: str
    kernel: str
    packages: tuple[str, ...]
    disk_modules: tuple[str, ...]
    modules: tuple[str, ...]
    left_out: tuple[str, ...] = ()


class Definition(_Model):
    """The file machine.yaml."""

    machine: Machine
    system: System


@dataclass(frozen=True, slots=True)
class Platform:
    """A processor architecture by the names that Debian, QEMU and pip have for it. The emulated `processor` has no wide
    registers: libraries would copy memory by them, and emulating that is slower than what they do without."""

    debian: str
    qemu: str
    package: str
    board: str
    processor: str
    console: str
    wheels: str


PLATFORMS = {
    "x86_64": Platform(
        "amd64", "qemu-system-x86_64", "qemu-system-x86", "q35", "max,-avx,-avx2,-erms,-fsrm", "ttyS0", "x86_64"
    ),
    "aarch64": Platform("arm64", "qemu-system-aarch64", "qemu-system-arm", "virt", "max", "ttyAMA0", "aarch64"),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One root file system with its kernel; `scripts` are files of `guest/` by name, `requirements` and `pins` are
    lines for pip."""

    platform: Platform
    system: System
    requirements: tuple[str, ...]
    pins: tuple[str, ...]
    scripts: Mapping[str, str]

    @property
    def kernel(self) -> str:
        """Name of the kernel's package."""
        return self.system.kernel.format(architecture=self.platform.debian)

    @property
    def checksum(self) -> str:
        """16 hexadecimal digits. The mirror does not count: they all have the same."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "architecture": self.platform.debian,
            "system": self.system.model_dump(mode="json", exclude={"mirror"}),
            "requirements": sorted(self.requirements),
            "pins": sorted(self.pins),
            "scripts": dict(self.scripts),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def host_platform() -> Platform:
    """Machines have this machine's architecture; raises `EnvironmentFailure` for one that they cannot have."""
    name = platform.machine()
    if name not in PLATFORMS:
        raise EnvironmentFailure(
            "there is no virtual machine for this processor",
            object="environment vm",
            value=name,
            fix="use --environment netns",
        )
    return PLATFORMS[name]


def load_definition() -> Definition:
    """machine.yaml; raises `EnvironmentFailure` naming the field that is wrong."""
    path = definitions("vm") / "machine.yaml"
    try:
        return Definition.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise EnvironmentFailure(f"cannot be read: {error}", object=str(path)) from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise EnvironmentFailure(first["msg"], object=str(path), field=".".join(map(str, first["loc"]))) from error


def load_recipe(system: System) -> Recipe:
    """The recipe for this machine's architecture, with the Python packages at the versions that are installed here."""
    pins = {f"{found.metadata['Name']}=={found.version}" for found in metadata.distributions()}
    guest = definitions("vm") / "guest"
    scripts = {name: (guest / name).read_text() for name in SCRIPTS}
    wanted = tuple(line for line in _requirements() if _name(line) not in system.left_out)
    needed = _closure({_name(line) for line in wanted})
    kept = tuple(sorted(pin for pin in pins if _name(pin) in needed))
    return Recipe(host_platform(), system, wanted, kept, scripts)


def _requirements() -> list[str]:
    lines = metadata.requires(DISTRIBUTION) or []
    return [line for line in lines if "extra ==" not in line]


def _name(line: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", line)
    return re.sub(r"[-_.]+", "-", found.group()).lower() if found else ""


def _closure(names: set[str]) -> set[str]:
    """These distributions and all that they require, as far as they are installed here."""
    seen: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        seen.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        left |= {_name(line) for line in lines if "extra ==" not in line} - seen
    return seen


def mirror(system: System, sources: tuple[Path, ...] = APT_SOURCES) -> str:
    """Where this machine's apt finds the suite, or else the one that the definition names."""
    files = [file for place in sources for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    for file in files:
        if not file.is_file() or "security" in file.name:
            continue
        text = file.read_text(errors="replace")
        for entry in re.findall(rf"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{system.suite}\s+.*main", text, re.MULTILINE):
            return str(entry).rstrip("/")
        for block in text.split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", block, re.MULTILINE))
            if system.suite in fields.get("Suites", "").split() and fields.get("URIs", "").startswith("http"):
                return str(fields["URIs"].split()[0]).rstrip("/")
    return system.mirror
