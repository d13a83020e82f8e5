"""Program and name of the chained plug-in on a node: there while a release is, in the configuration that counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egresslab.agent.hostplugin import ENDINGS, HostPlugin, take_away

LIST = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "ptp"}, {"type": "portmap"}]}
LONE = {"cniVersion": "0.3.1", "name": "lone", "type": "bridge"}
OURS = {"type": "egresslab"}


class Node:
    """Directories of a node, and what a runtime finds there."""

    def __init__(self, directory: Path) -> None:
        self.configurations, self.programs = directory / "net.d", directory / "bin"
        self.configurations.mkdir()
        self.plugin = HostPlugin(self.configurations, self.programs)

    def write(self, name: str, content: Any) -> Path:
        path = self.configurations / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def first(self) -> list[Any]:
        """Plug-ins of the first configuration, as libcni finds it; what it names is there."""
        ordered = sorted(path for path in self.configurations.iterdir() if path.suffix in ENDINGS)
        data = json.loads(ordered[0].read_text())
        plugins = list(data["plugins"]) if ordered[0].suffix == ".conflist" else [data]
        assert OURS not in plugins or (self.programs / "egresslab").stat().st_mode & 0o111 == 0o111
        return plugins

    def content(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.configurations.iterdir()}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """One without any configuration."""
    return Node(tmp_path)


def test_it_is_last_in_the_first_list_and_in_no_other(node: Node) -> None:
    node.write("20-other.conflist", {**LIST, "plugins": [{"type": "bridge"}, OURS]})
    node.write("10-net.conflist", LIST).chmod(0o600)
    node.plugin.install()
    assert node.first() == [*LIST["plugins"], OURS]
    assert json.loads(node.content()["20-other.conflist"])["plugins"] == [{"type": "bridge"}]
    assert (node.configurations / "10-net.conflist").stat().st_mode & 0o777 == 0o600
    before = node.content(), (node.configurations / "10-net.conflist").stat().st_ino
    node.plugin.install()
    assert before == (node.content(), (node.configurations / "10-net.conflist").stat().st_ino), "nothing to write"


def test_when_it_goes_every_configuration_says_what_it_said(node: Node) -> None:
    node.write("10-net.conflist", LIST)
    lone = node.write("05-lone.conf", '{"name": "lone",   "type": "bridge"}')
    text = lone.read_text()
    node.plugin.install()
    assert node.first() == [json.loads(text), OURS]
    node.plugin.remove()
    assert lone.read_text() == text
    assert json.loads(node.content()["10-net.conflist"]) == LIST
    assert sorted(node.content()) == ["05-lone.conf", "10-net.conflist"] and not list(node.programs.iterdir())
    node.plugin.remove()


@pytest.mark.parametrize(("name", "next_"), [("10-lone.conf", "10-lone.conflist"), ("10-lone.json", "11-net.conflist")])
def test_a_list_stands_in_for_a_lone_plugin_before_all_others(node: Node, name: str, next_: str) -> None:
    node.write(name, LONE)
    node.write(next_, LIST)
    for _ in range(2):
        node.plugin.install()
        assert node.first() == [LONE, OURS]
        assert OURS not in json.loads(node.content()[next_])["plugins"]
    # Its owner writes it anew, over nothing.
    changed = {**LONE, "mtu": 1400}
    node.write(name, changed)
    node.plugin.install()
    assert node.first() == [changed, OURS]
    node.plugin.remove()
    assert {key: json.loads(text) for key, text in node.content().items()} == {name: changed, next_: LIST}


def test_a_file_that_cannot_be_read_is_left_alone(node: Node) -> None:
    node.write("00-half.conflist", '{"name": "net", "plug')
    node.write("10-net.conflist", LIST)
    node.plugin.install()
    assert node.content()["00-half.conflist"] == '{"name": "net", "plug'
    assert json.loads(node.content()["10-net.conflist"])["plugins"][-1] == OURS


def test_another_program_of_that_name_is_replaced(node: Node) -> None:
    node.programs.mkdir()
    (node.programs / "egresslab").write_text("old")
    node.write("10-net.conflist", LIST)
    node.plugin.install()
    assert (node.programs / "egresslab").read_bytes()[:4] == b"\x7fELF"
    assert [path.name for path in node.programs.iterdir()] == ["egresslab"]


def test_cri_o_still_calls_it_for_pods_that_began_with_it(node: Node) -> None:
    node.write("10-net.conflist", LIST)
    node.plugin.install()
    take_away(node.plugin, "cri-o://1.31.0")
    assert OURS not in node.first() and (node.programs / "egresslab").exists()
    take_away(node.plugin, "containerd://2.0.0")
    assert not (node.programs / "egresslab").exists()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is files that change
            await asyncio.sleep(0.01)


async def test_what_another_plugin_writes_does_not_stay_without_it(node: Node) -> None:
    following = asyncio.create_task(node.plugin.run())
    try:
        await until(lambda: (node.programs / "egresslab").exists())
        for mtu in (1400, 1300):
            fresh = node.write("draft", {**LIST, "plugins": [{"type": "ptp", "mtu": mtu}]})
            fresh.rename(node.configurations / "10-net.conflist")
            await until(lambda mtu=mtu: node.first() == [{"type": "ptp", "mtu": mtu}, OURS])  # type: ignore[misc]
        node.write("10-net.conflist", LIST)
        await until(lambda: node.first()[-1] == OURS and node.first()[:-1] == LIST["plugins"])
        node.write("05-new.conflist", LIST)
        await until(
            lambda: OURS in node.first() and OURS not in json.loads(node.content()["10-net.conflist"])["plugins"]
        )
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert OURS in node.first(), "an agent that stops leaves it"
