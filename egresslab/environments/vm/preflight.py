"""What a lab of machines needs of this one, looked at before anything is made; each lack with what mends it."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from egresslab.environments.netns.doctor import SEARCH_PATH, Finding, Verdict, installation
from egresslab.environments.netns.paths import STATE
from egresslab.environments.vm.recipe import Definition, Recipe, load_definition, load_recipe, mirror
from egresslab.environments.vm.store import Store
from egresslab.environments.vm.system import NEEDED_MIB
from egresslab.errors import EnvironmentFailure

TUN = Path("/dev/net/tun")
EMULATOR_MIB = 160
"""What QEMU itself takes beside the memory of its machine: the translation cache, mostly."""
STATE_MIB = 64
"""What a node writes to its disk during a lab, about; it is kept with the lab's state."""
MIRROR_TIMEOUT_S = 15.0


def examine(definition: Definition, recipe: Recipe, store: Store, machines: int) -> list[Finding]:
    """Everything, for a lab with so many machines."""
    made = store.find(recipe.checksum) is not None
    findings = [*tools(recipe, made=made), _tun(), *_room(definition, store, machines, made=made)]
    if not made:
        findings.append(_mirror(recipe))
    return findings


def optional() -> list[Finding]:
    """The programs and the device, for `egresslab doctor`: a lab of namespaces does without."""
    definition = load_definition()
    recipe = load_recipe(definition.system)
    looked = [*tools(recipe, made=Store().find(recipe.checksum) is not None), _tun()]
    return [
        replace(one, name=f"vm: {one.name}", verdict=Verdict.OK if one.verdict is Verdict.OK else Verdict.OPTIONAL)
        for one in looked
    ]


def require(findings: list[Finding]) -> None:
    """Raise `EnvironmentFailure` with the fix for what is missing."""
    lacking = [finding for finding in findings if finding.verdict is Verdict.MISSING]
    if not lacking:
        return
    fixes = [finding.fix for finding in lacking if finding.fix and not finding.packages]
    install = installation(lacking)
    raise EnvironmentFailure(
        f"this machine lacks: {', '.join(f'{finding.name} ({finding.found})' for finding in lacking)}",
        object="environment vm",
        fix="; ".join([*fixes, *([install] if install else [])]),
    )


def tools(recipe: Recipe, *, made: bool) -> Iterator[Finding]:
    """Programs; those that make a root file system matter only until there is one."""
    wanted = {recipe.platform.qemu: recipe.platform.package, "qemu-img": "qemu-utils", "mkfs.ext4": "e2fsprogs"}
    if not made:
        wanted["debootstrap"] = "debootstrap"
    for tool, package in wanted.items():
        path = shutil.which(tool, path=SEARCH_PATH)
        yield Finding(tool, Verdict.OK if path else Verdict.MISSING, path or "not found", None, (package,))
    if not made:
        ring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
        verdict = Verdict.OK if ring.exists() else Verdict.MISSING
        found = str(ring) if ring.exists() else "not found"
        yield Finding("Debian's keys", verdict, found, None, ("debian-archive-keyring",))


def _tun() -> Finding:
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        found = error.strerror or str(error)
        return Finding("network taps", Verdict.MISSING, f"{TUN}: {found}", "modprobe tun, or allow the device here")
    return Finding("network taps", Verdict.OK, str(TUN))


def _room(definition: Definition, store: Store, machines: int, *, made: bool) -> Iterator[Finding]:
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free, wanted = (
        int(memory["MemAvailable"].split()[0]) >> 10,
        machines * (definition.machine.memory_mib + EMULATOR_MIB),
    )
    fix = None if free >= wanted else "end other programs, or name fewer nodes in a topology file"
    verdict = Verdict.OK if free >= wanted else Verdict.MISSING
    yield Finding("free memory", verdict, f"{free} MiB; {machines} machines want {wanted}", fix)
    yield _space(
        "free space for the lab", STATE.parent, machines * STATE_MIB, f"mount -o remount,size=2G {STATE.parent}"
    )
    if not made:
        folder = next(path for path in (store.root, *store.root.parents) if path.is_dir())
        fix = f"make room in {folder}, or name another folder: export XDG_CACHE_HOME=FOLDER"
        yield _space("free space for the root file system", folder, NEEDED_MIB, fix)


def _space(name: str, folder: Path, wanted: int, fix: str) -> Finding:
    free = shutil.disk_usage(folder).free >> 20
    enough = free >= wanted
    verdict = Verdict.OK if enough else Verdict.MISSING
    return Finding(name, verdict, f"{folder}: {free} MiB of {wanted}", None if enough else fix)


def _mirror(recipe: Recipe) -> Finding:
    where = f"{mirror(recipe.system)}/dists/{recipe.system.suite}/Release"
    name = f"a mirror with Debian {recipe.system.suite}"
    if not mirror(recipe.system):
        fix = "add an apt source that has the suite, or name a mirror in environments/vm/machine.yaml, system.mirror"
        return Finding(name, Verdict.MISSING, "no apt source of this machine has it", fix)
    try:
        with urllib.request.urlopen(urllib.request.Request(where, method="HEAD"), timeout=MIRROR_TIMEOUT_S):
            return Finding(name, Verdict.OK, where)
    except (urllib.error.URLError, OSError, ValueError) as error:
        fix = "mend the network (a proxy is named by http_proxy), or add an apt source that has the suite"
        return Finding(name, Verdict.MISSING, f"{where}: {getattr(error, 'reason', error)}", fix)
