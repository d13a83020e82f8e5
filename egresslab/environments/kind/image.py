"""The project's own image in Docker: used when it is there, else put together from this installation and built.

Python packages are fetched by pip as wheels and never run here, as `make image` does it.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from pathlib import Path

from egresslab.environments.definitions import PACKAGE
from egresslab.environments.kind.commands import Commands
from egresslab.errors import EnvironmentFailure

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PYTHON = "3.11"
"""Python of the image's base."""
PLATFORMS = ("manylinux_2_17", "manylinux_2_28", "manylinux2014")
EXTRAS = "nftables tcpdump"
"""Debian's packages that the world outside needs besides."""
FETCH_S, BUILD_S = 300.0, 600.0


def deployment() -> Path:
    """Directory with the chart and the Dockerfile; raises `EnvironmentFailure` for a broken installation."""
    for base in (PACKAGE / "deploy", PACKAGE.parent / "deploy"):
        if (base / "chart" / "Chart.yaml").is_file():
            return base
    raise EnvironmentFailure(
        "the chart is missing from the installation",
        object="egresslab",
        fix="install the package again: pip install --force-reinstall egresslab",
    )


def ensure_image(commands: Commands, image: str) -> bool:
    """Whether it had to be built; raises `EnvironmentFailure` when that fails."""
    if commands.inspect("image", image) is not None:
        return False
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise EnvironmentFailure("no image for this machine", object=image, value=machine, fix="use amd64 or arm64")
    source = deployment()
    with tempfile.TemporaryDirectory(prefix="egresslab-image-") as directory:
        site = Path(directory, ARCHITECTURES[machine])
        _install(commands, source / "requirements.txt", site, machine)
        leave_out = shutil.ignore_patterns("__pycache__", "chapters", "deploy")
        shutil.copytree(PACKAGE, site / "egresslab", ignore=leave_out)
        commands.docker(
            "build",
            "--tag",
            image,
            "--build-arg",
            f"TARGETARCH={ARCHITECTURES[machine]}",
            "--build-arg",
            f"EXTRAS={EXTRAS}",
            "--file",
            str(source / "Dockerfile"),
            directory,
            timeout_s=BUILD_S,
        )
    return True


def _install(commands: Commands, requirements: Path, target: Path, machine: str) -> None:
    lock = PACKAGE.parent / "requirements.lock"
    commands.run(
        sys.executable,
        *("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--target", str(target), "--only-binary=:all:", "--python-version", PYTHON),
        *(word for name in PLATFORMS for word in ("--platform", f"{name}_{machine}")),
        *(("--constraint", str(lock)) if lock.is_file() else ()),
        *("--requirement", str(requirements)),
        timeout_s=FETCH_S,
    )
