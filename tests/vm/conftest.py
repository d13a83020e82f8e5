"""A lab of machines for all tests that need one, and machines that belong to no lab."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from egresslab.environments.base import Progress, Silent
from egresslab.environments.netns.leftovers import leftovers
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.vm import machine
from egresslab.environments.vm.environment import VmEnvironment
from egresslab.environments.vm.machine import Ended
from egresslab.lab.client import Client

LAB = "vm-test"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Machines are booted for those who ask for it: it takes minutes, and a root file system that is made first."""
    if "vm" in (config.getoption("markexpr") or ""):
        return
    for item in items:
        if item.get_closest_marker("vm"):
            item.add_marker(pytest.mark.skip(reason="boots virtual machines: make test-vm"))


class Loud(Silent):
    """What an environment does, into pytest's captured output."""

    def step(self, text: str) -> None:
        print(f"{time.strftime('%T')} {text}", flush=True)

    note = step


@pytest.fixture(scope="session")
def progress() -> Progress:
    """Where steps are told."""
    return Loud()


@pytest.fixture(scope="session")
def lab(progress: Progress) -> Iterator[VmEnvironment]:
    """The default topology with machines; taken down at the end, and nothing is left of it."""
    environment = VmEnvironment(LAB)
    environment.delete(Silent())
    try:
        outcome = environment.create(progress)
        print(f"up in {outcome.seconds:.1f} s: {outcome.steps}")
        yield environment
    finally:
        begun = time.monotonic()
        environment.delete(Silent())
        print(f"down in {time.monotonic() - begun:.1f} s")
        assert leftovers(LAB) == ()


@pytest.fixture(scope="session")
def client(lab: VmEnvironment) -> Iterator[Client]:
    """A connection to the lab."""
    client = Client(lab.kubeconfig())
    yield client
    client.close()


Inside = Callable[[str, str], Ended]


@pytest.fixture(scope="session")
def inside(lab: VmEnvironment) -> Inside:
    """`inside(node, script)`: run a shell script in a machine, past Kubernetes."""
    return lambda node, script: machine.run(LabPaths(lab.lab), node, ["/bin/sh", "-c", script], deadline_s=180)


def copy_distributions(names: set[str], target: Path) -> None:
    """Installed distributions with all that they need, as far as they are plain files of site-packages."""
    done: set[str] = set()
    while names - done:
        name = (names - done).pop()
        done.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        lines = [line for line in found.requires or [] if "extra ==" not in line]
        names |= {
            line.split(";")[0]
            .split("[")[0]
            .split("<")[0]
            .split(">")[0]
            .split("=")[0]
            .split("!")[0]
            .split("~")[0]
            .strip()
            for line in lines
        }
        for file in found.files or []:
            source = Path(str(file.locate()))
            if ".." not in file.parts and source.is_file() and source.suffix != ".pyc":
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target / file)


def power_off(process: subprocess.Popen[bytes]) -> None:
    """Pull the plug."""
    process.kill()
    process.wait(10)
