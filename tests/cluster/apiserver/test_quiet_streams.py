"""A client that only waits is never asked whether it lives: it may not be reading, and is not to be cut off."""

from __future__ import annotations

import asyncio
import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from egresslab.cluster import controlplane
from egresslab.cluster.controlplane import Configuration, listen, serving
from egresslab.cluster.testing import certificates

HASTE_S = 0.001
BINARY, FIN = 0x2, 0x80
DEADLINE_S = 30.0


class Hasty(uvicorn.Config):
    """If pings are wanted at all, they are sent a thousand times a second, and answers expected as soon."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self.ws_ping_interval is not None:
            self.ws_ping_interval = self.ws_ping_timeout = HASTE_S


class Waiting:
    """In the API server's place: streams on which nothing comes for the time of many pings, and then one message."""

    def __init__(self, _settings: object) -> None:
        self.app = Starlette(routes=[WebSocketRoute("/exec", self._exec)])
        self.store = self

    async def _exec(self, socket: WebSocket) -> None:
        await socket.accept()
        await asyncio.sleep(50 * HASTE_S)
        await socket.send_bytes(b"done")
        await socket.close()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def close(self) -> None: ...


async def test_a_client_that_only_waits_gets_what_it_waits_for_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn, "Config", Hasty)
    monkeypatch.setattr(controlplane, "ApiServer", Waiting)
    certificates(tmp_path)
    listener = listen("127.0.0.1:0")
    port = listener.getsockname()[1]
    files = {"cert": "apiserver.crt", "key": "apiserver.key", "ca": "ca.crt"}
    config = Configuration.model_validate(
        {
            "host_bind": f"127.0.0.1:{port}",
            "tls": {part: tmp_path / name for part, name in files.items()},
            "tokens": tmp_path / "tokens.csv",
        }
    )
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    async with asyncio.timeout(DEADLINE_S), serving(config, [listener]):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        key = base64.b64encode(bytes(16)).decode()
        writer.write(
            f"GET /exec HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(6) == bytes([FIN | BINARY, 4]) + b"done"
        writer.close()
