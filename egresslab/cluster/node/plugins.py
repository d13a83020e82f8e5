"""Network plug-ins of type `socket`: others on the node that have their part in a pod's network before it runs.

Each file in the node's /etc/cni/net.d names a unix socket. The plug-in is asked once a pod's addresses are published,
and the pod's containers wait for its consent; it is told again when the pod has gone.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from egresslab.cluster.node.volumes import safe_path
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

FOLDER = "/etc/cni/net.d"
ADD_TIMEOUT_S = 10.0
DEL_TIMEOUT_S = 1.0


class PluginError(ClusterError):
    """A plug-in did not consent: its socket does not answer, or it answered with an error."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plug-in: its name, and its socket on this machine."""

    name: str
    socket: Path


def plugins(root: Path) -> list[Plugin]:
    """Those of a node, in order of their files; raises `ClusterError` for a file that cannot be understood."""
    found = []
    folder = safe_path(root, FOLDER)
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            data = json.loads(path.read_text())
            if data["type"] == "socket":
                found.append(Plugin(str(data.get("name") or path.stem), safe_path(root, str(data["path"]))))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise PluginError(f"not the configuration of a network plug-in: {error!r}", object=str(path)) from error
    return found


async def ask(plugin: Plugin, verb: str, body: dict[str, Any]) -> None:
    """POST /cni/add or /cni/del; raises `PluginError` unless the answer is 200."""
    timeout = aiohttp.ClientTimeout(total=ADD_TIMEOUT_S if verb == "add" else DEL_TIMEOUT_S)
    where = f"network plug-in {plugin.name}"
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(plugin.socket)), timeout=timeout) as session,
            session.post(f"http://plugin/cni/{verb}", json=body) as answer,
        ):
            if answer.status != 200:
                raise PluginError(f"refused with {answer.status}: {(await answer.text())[:500]}", object=where)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        fix = "see whether the pod of the plug-in runs on this node"
        raise PluginError(f"does not answer: {error!r}", object=where, fix=fix) from error


async def farewell(root: Path, body: dict[str, Any]) -> None:
    """Tell every plug-in that a pod is gone; who does not listen will find out by itself."""
    try:
        for plugin in plugins(root):
            await ask(plugin, "del", body)
    except PluginError as error:
        logger.info("pod %s/%s is gone, but: %s", body["namespace"], body["name"], error)
