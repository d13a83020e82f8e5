"""The project on a disk of its own: what is installed or checked out here, eBPF object included, is what nodes run.

Apart from the root file system, so that a change of one line does not make a new one.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import sys
from importlib import metadata
from pathlib import Path

from egresslab.environments.definitions import PACKAGE, definitions
from egresslab.environments.vm.recipe import DISTRIBUTION
from egresslab.environments.vm.system import PROJECT, make_disk
from egresslab.errors import EnvironmentFailure

SIZE_MIB = 96
LEFT_OUT = ("__pycache__", "*.pyc", ".*", "chapters")


def make_project(disk: Path, python: str) -> None:
    """Make the disk; `python` is the version that machines have, such as "3.11".

    Modules are compiled beforehand where this machine's Python is of that version: an emulated processor would take its
    time over it at every start.
    """
    if not list((PACKAGE / "datapath" / "bpf").glob("*.o")):
        raise EnvironmentFailure("not compiled", object="eBPF object", fix=f"make -C {PACKAGE / 'datapath' / 'bpf'}")
    root = disk.with_suffix(".d")
    shutil.rmtree(root, ignore_errors=True)
    try:
        shutil.copytree(PACKAGE, root / "egresslab", ignore=shutil.ignore_patterns(*LEFT_OUT))
        shutil.rmtree(root / "egresslab" / "definitions", ignore_errors=True)
        for name in ("netns", "vm"):
            shutil.copytree(definitions(name), root / "environments" / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        _metadata(root)
        if f"{sys.version_info.major}.{sys.version_info.minor}" == python:
            unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
            compileall.compile_dir(
                root, quiet=2, stripdir=str(root), prependdir=str(PROJECT), invalidation_mode=unchecked
            )
        make_disk(root, disk, SIZE_MIB, disk.with_suffix(".log"))
    finally:
        shutil.rmtree(root, ignore_errors=True)
        disk.with_suffix(".log").unlink(missing_ok=True)


def _metadata(root: Path) -> None:
    """What `importlib.metadata` needs to know the project's version."""
    version = metadata.version(DISTRIBUTION)
    folder = root / f"{DISTRIBUTION}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n")
