"""The datapath's own tests inside a machine, on its kernel: what the verifier of another kernel accepts, and that it
translates there as it does here."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.vm import acceleration, machine
from egresslab.environments.vm.machine import agent_socket, monitor_socket
from egresslab.environments.vm.project import make_project
from egresslab.environments.vm.qemu import Acceleration, Disk, Hardware, Wiring, command
from egresslab.environments.vm.recipe import load_definition, load_recipe
from egresslab.environments.vm.store import Store
from egresslab.environments.vm.system import PROJECT, make_disk, provide
from egresslab.errors import EnvironmentFailure

from .conftest import Loud, copy_distributions, power_off

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(5400)]
TESTS = Path(__file__).parents[1]
TOOLS = {"pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "scapy"}
NODE = "alone"
BOOT_S, SUITE_S = 300.0, 2400.0
MEMORY_MIB = 1024
OUTSIDE = "tests/datapath/test_object.py::test_every_helper_is_known_and_of_kernel_5_10"
"""It reads the object with tools of the compiler, which no machine has."""
FILES = sorted(file.name for file in (TESTS / "datapath").glob("test_*.py"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabPaths]:
    """Places of a machine that belongs to no lab."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("egresslab.environments.netns.paths.STATE", tmp_path_factory.mktemp("vm"))
        paths = LabPaths(NODE)
        paths.node(NODE).mkdir(parents=True)
        yield paths


@pytest.fixture(scope="module")
def alone(paths: LabPaths) -> Iterator[LabPaths]:
    """A machine without networks that has this checkout's tests on a fourth disk."""
    definition = load_definition()
    recipe, store, folder = load_recipe(definition.system), Store(), paths.node(NODE)
    system = provide(recipe, store, definition.machine.disk_mib, Loud())
    hardware = Hardware(recipe.platform, Acceleration.EMULATION, MEMORY_MIB, 1)
    chosen, _ = acceleration.choose(hardware, system, store.root / "acceleration.json")
    overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(system.disk), str(folder / "d.qcow2")]
    subprocess.run(overlay, check=True)
    make_project(folder / "project.ext4", definition.system.python)
    disks = (
        Disk("system", folder / "d.qcow2", "qcow2"),
        Disk("project", folder / "project.ext4", read_only=True),
        Disk("node", _seed(folder), read_only=True),
        Disk("tests", _tests(folder), read_only=True),
    )
    wiring = Wiring(folder / "console", monitor_socket(paths, NODE), agent_socket(paths, NODE))
    process = subprocess.Popen(command(NODE, replace(hardware, acceleration=chosen), system, disks, (), wiring))
    try:
        _wait_for_start(paths, folder / "console")
        mounted = machine.run(
            paths, NODE, ["/bin/sh", "-c", "mkdir -p /mnt && mount -t ext4 -o ro /dev/vdd /mnt && modprobe bridge"]
        )
        assert mounted.exit_code == 0, mounted.stderr
        yield paths
    finally:
        power_off(process)


def _wait_for_start(paths: LabPaths, console: Path) -> None:
    until = time.monotonic() + BOOT_S
    while True:
        try:
            machine.run(paths, NODE, ["/bin/true"], deadline_s=BOOT_S)
            return
        except EnvironmentFailure:
            said = console.read_text(errors="replace") if console.exists() else ""
            assert time.monotonic() < until, said[-2000:]
            time.sleep(1)


def _seed(folder: Path) -> Path:
    """A node that knows nothing: its kubelet ends at once, again and again, which is no matter."""
    root = folder / "seed"
    root.mkdir()
    for name in ("hosts", "links", "sysctls", "network"):
        (root / name).touch()
    (root / "hostname").write_text(f"{NODE}\n")
    (root / "config.json").write_text("{}")
    with tarfile.open(folder / "seed.tar", "w") as archive:
        archive.add(root, ".")
    return folder / "seed.tar"


def _tests(folder: Path) -> Path:
    root = folder / "tests"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("datapath",):
        shutil.copytree(TESTS / name, root / "tests" / name, ignore=ignored)
    shutil.copy(TESTS / "__init__.py", root / "tests")
    (root / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\npythonpath = .\n"
        "addopts = --import-mode=importlib -p no:cacheprovider\nmarkers =\n  root: here it is\n  slow: here all is\n"
    )
    copy_distributions(set(TOOLS), root / "site")
    make_disk(root, folder / "tests.ext4", 256, folder / "log")
    return folder / "tests.ext4"


@pytest.mark.parametrize("file", FILES)
def test_the_datapath_passes_on_this_kernel(alone: LabPaths, file: str) -> None:
    python = "/opt/egresslab/bin/python"
    words = f"cd /mnt && PYTHONPATH=/mnt/site:{PROJECT} HYPOTHESIS_STORAGE_DIRECTORY=/tmp/h "
    words += f"exec {python} -B -m pytest -q --deselect {OUTSIDE}"
    begun = time.monotonic()
    ended = machine.run(
        alone,
        NODE,
        ["/bin/sh", "-c", f"{words} --timeout 600 --durations 3 tests/datapath/{file} 2>&1"],
        deadline_s=SUITE_S,
    )
    print(f"{file}: {time.monotonic() - begun:.0f} s: {ended.stdout.splitlines()[-1:]}")
    assert ended.exit_code == 0, ended.stdout[-6000:]
    assert " passed" in ended.stdout
