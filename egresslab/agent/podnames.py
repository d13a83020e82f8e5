"""Which addresses a pod has, for a debugger beside the agent: a name in, addresses out, over a unix socket.

The debugger must work while the API server does not, so the agent answers from what it last knew. Nothing is offered on
the network.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from egresslab.errors import ClusterError

NAMES_SOCKET = Path("/run/egresslab-agent/names.sock")
PATIENCE_S = 2.0
IPAddress = IPv4Address | IPv6Address


@asynccontextmanager
async def serve_names(path: Path, names: Mapping[IPAddress, tuple[str, str]]) -> AsyncIterator[None]:
    """Answer a line `NAMESPACE/NAME` with a JSON list of the pod's addresses, one of each family, while open."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                asked = tuple((await reader.readline()).decode(errors="replace").strip().split("/"))
                # A name may have lived before: the address that was learnt last counts.
                found = {address.version: str(address) for address, name in names.items() if tuple(name) == asked}
                writer.write(json.dumps([found[version] for version in sorted(found)]).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ConnectionError):
            return  # whoever asked went away
        finally:
            writer.close()

    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, str(path))
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


def addresses_of(pod: str, path: Path = NAMES_SOCKET) -> tuple[IPAddress, ...]:
    """The addresses of the pod `NAMESPACE/NAME`, IPv4 first. Raises ClusterError when the agent cannot be asked or
    knows no such pod."""
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE_S)
            asking.connect(str(path))
            asking.sendall(pod.encode() + b"\n")
            with asking.makefile("rb") as answer:
                found = json.loads(answer.readline() or b"[]")
    except OSError as error:
        raise ClusterError(
            f"the agent cannot be asked for names: {error}", object=f"pod {pod}", fix="give the pod's address instead"
        ) from error
    if not found:
        raise ClusterError("no such pod", object=f"pod {pod}", fix="kubectl get pods -A -o wide")
    return tuple(ip_address(text) for text in found)
