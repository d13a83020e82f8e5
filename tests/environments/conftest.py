"""What the tests of environments share: a lab name of their own, and the certainty that nothing is left of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from egresslab.environments.definitions import definitions
from egresslab.environments.netns import host
from egresslab.environments.netns.demolition import demolish, members, remove_namespace
from egresslab.environments.netns.fabric import plan_fabric
from egresslab.environments.netns.kernel import mounts_below
from egresslab.environments.netns.labrecord import read_lab
from egresslab.environments.netns.locks import locked
from egresslab.environments.netns.network import build
from egresslab.environments.netns.paths import FABRIC, NAMESPACES, OUTSIDE, LabPaths
from egresslab.environments.netns.topology import Topology, parse_topology


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave root's tests out, visibly, for everybody else."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def content() -> dict[str, Any]:
    """The default topology, as decoded YAML that a test may change."""
    return default_content()


@pytest.fixture(scope="session")
def topology() -> Topology:
    """The default topology."""
    return parse_topology(default_content(), "topology.yaml")


def default_content() -> dict[str, Any]:
    """The default topology as decoded YAML."""
    return yaml.safe_load((definitions("netns") / "topology.yaml").read_text())


def leftovers(paths: LabPaths) -> list[str]:
    """Everything on the host that still carries the lab's name."""
    left = [str(paths.root)] if paths.root.exists() else []
    names = [entry.name for entry in NAMESPACES.iterdir()] if NAMESPACES.is_dir() else []
    own = [name for name in names if name.startswith(f"egresslab-{paths.lab}-")]
    left += own + [f"process {pid}" for pid in members(own)]
    left += [f"mount {point}" for point in mounts_below(paths.root)]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(paths.root) + "/" in command or f"supervisor --lab {paths.lab} " in command:
                left.append(f"process {process.name}: {command}")
    return left


@contextmanager
def own_lab() -> Iterator[LabPaths]:
    """A lab that does not exist yet; whatever is left of it is removed, and is an error."""
    found = LabPaths(f"envt-{secrets.token_hex(3)}")
    yield found
    left = leftovers(found)
    if left:
        with locked(found.root, 5, "a command at work"):
            demolish(found, read_lab(found))
            found.root.rmdir()
    with host.host_locked():
        host.sweep()
    assert left == []


@pytest.fixture
def paths() -> Iterator[LabPaths]:
    """A lab of the test's own."""
    with own_lab() as found:
        yield found


@pytest.fixture(scope="module")
def fabric(topology: Topology) -> Iterator[LabPaths]:
    """The default network without any process."""
    with own_lab() as paths:
        with host.host_locked():
            host.prepare_namespaces_directory()
        build(plan_fabric(topology, paths), topology.networks).wait()
        yield paths
        for member in (FABRIC, OUTSIDE, *(node.name for node in topology.nodes)):
            remove_namespace(paths.namespace(member))
