"""What this machine lacks is said before anything is made, with what mends it."""

from __future__ import annotations

from pathlib import Path
from shutil import disk_usage

import pytest

from egresslab.environments.base import Silent
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.vm import preflight
from egresslab.environments.vm.environment import VmEnvironment
from egresslab.environments.vm.recipe import load_definition, load_recipe
from egresslab.environments.vm.store import Store
from egresslab.errors import EnvironmentFailure

DEFINITION = load_definition()


@pytest.fixture(scope="module")
def recipe():  # type: ignore[no-untyped-def]
    """The one of this machine."""
    return load_recipe(DEFINITION.system)


def lacking(recipe, store: Store, machines: int = 3) -> str:  # type: ignore[no-untyped-def]
    """The error's text; nothing when nothing lacks."""
    try:
        preflight.require(preflight.examine(DEFINITION, recipe, store, machines))
    except EnvironmentFailure as error:
        return str(error)
    return ""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe) -> Store:  # type: ignore[no-untyped-def]
    """One where the system was made, on a machine that has everything."""
    store = Store(tmp_path)
    (store.root / recipe.checksum).mkdir()
    monkeypatch.setattr(preflight.shutil, "which", lambda tool, path: f"/usr/bin/{tool}")
    monkeypatch.setattr(preflight, "TUN", Path("/dev/null"))
    monkeypatch.setattr(preflight, "_mirror", lambda recipe: pytest.fail("nothing has to be fetched"))
    return store


def test_without_qemu_the_package_is_named(store: Store, recipe, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(preflight.shutil, "which", lambda tool, path: None)
    said = lacking(recipe, store)
    assert "apt-get install -y --no-install-recommends e2fsprogs qemu-system-x86 qemu-utils" in said
    assert "debootstrap" not in said, "only what makes a root file system needs it, and there is one"


def test_without_room_it_says_how_much_is_wanted(store: Store, recipe, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    free = disk_usage("/")._replace(free=10 << 20)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: free)
    assert "10 MiB of 192" in lacking(recipe, store)


def test_without_memory_it_says_how_much_machines_want(store: Store, recipe) -> None:  # type: ignore[no-untyped-def]
    said = lacking(recipe, store, machines=100_000)
    assert "100000 machines want" in said and "name fewer nodes" in said


def test_without_a_mirror_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egresslab.environments.netns.paths.STATE", tmp_path / "run")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(preflight, "mirror", lambda system: "http://127.0.0.1:9/debian")
    monkeypatch.setattr(preflight.shutil, "which", lambda tool, path: f"/usr/bin/{tool}")
    with pytest.raises(EnvironmentFailure, match="a mirror with Debian") as caught:
        VmEnvironment("nomirror").create(Silent())
    assert "http_proxy" in str(caught.value)
    assert not LabPaths("nomirror").root.exists()
