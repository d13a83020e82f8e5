"""CNI network configurations as data: our plug-in put last into a list, taken out again, a lone plug-in made a list.

Everything else in a configuration is its owner's and stays as it is, keys and order included. Pure: no files here.
Source: CNI specification, section 1 (https://www.cni.dev/docs/spec/).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PLUGIN = "egresslab"
"""The type of our plug-in, which is the name of its program."""

Configuration = Mapping[str, Any]


def parse(text: str) -> Configuration:
    """A list of plug-ins or a lone one; raises ValueError for what is neither."""
    data = json.loads(text)
    if not isinstance(data, dict) or not (_plugins(data) or isinstance(data.get("type"), str)):
        raise ValueError("neither a list of plug-ins nor a plug-in")
    return data


def render(configuration: Configuration) -> str:
    """The text of a file."""
    return json.dumps(configuration, indent=2, ensure_ascii=False) + "\n"


def is_list(configuration: Configuration) -> bool:
    """Whether plug-ins are chained in it, which only a list does."""
    return bool(_plugins(configuration))


def asks(configuration: Configuration) -> bool:
    """Whether our plug-in is in it."""
    return any(map(_is_ours, _plugins(configuration)))


def with_plugin(configuration: Configuration) -> Configuration:
    """The list with our plug-in once, after all others: it has to see what they gave the pod."""
    others = [plugin for plugin in _plugins(configuration) if not _is_ours(plugin)]
    return {**configuration, "plugins": [*others, {"type": PLUGIN}]}


def without_plugin(configuration: Configuration) -> Configuration:
    """The list without our plug-in."""
    return {**configuration, "plugins": [plugin for plugin in _plugins(configuration) if not _is_ours(plugin)]}


def as_list(configuration: Configuration) -> Configuration:
    """A lone plug-in as a list of one, under the same name and version."""
    kept = {key: configuration[key] for key in ("cniVersion", "name") if key in configuration}
    return {**kept, "plugins": [dict(configuration)]}


def _plugins(configuration: Configuration) -> list[Any]:
    found = configuration.get("plugins")
    return found if isinstance(found, list) else []


def _is_ours(plugin: Any) -> bool:
    return isinstance(plugin, dict) and plugin.get("type") == PLUGIN
