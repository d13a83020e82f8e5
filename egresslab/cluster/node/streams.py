"""Kubernetes' remote command protocol over a WebSocket: v5.channel.k8s.io and v4.channel.k8s.io.

The first byte of a message is its channel. Version 5 adds a signal by which the client closes a channel, which is how
the end of standard input arrives; in version 4 it does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import IntEnum

import orjson
from aiohttp import WSMsgType, web

from egresslab.api.resources import Object

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CLOSE = 255
HEARTBEAT_S = 30.0
SUCCESS: Object = {"metadata": {}, "status": "Success"}


class Channel(IntEnum):
    """First byte of a message."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4


@dataclass(frozen=True, slots=True)
class Resize:
    """The client's terminal has a new size."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes for standard input; none at its end."""

    data: bytes


def failure(message: str, reason: str = "InternalError", code: int = 500) -> Object:
    """A Status that kubectl prints as an error."""
    return {"metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}


def exit_status(code: int) -> Object:
    """The Status for a command that has ended, as kubelets write it."""
    if code == 0:
        return SUCCESS
    status = failure(f"command terminated with non-zero exit code: exit status {code}", "NonZeroExitCode")
    del status["code"]
    return status | {"details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}


class Streams:
    """One client's channels."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    @property
    def response(self) -> web.StreamResponse:
        """What an HTTP handler returns in the end."""
        return self._socket

    @classmethod
    async def accept(cls, request: web.Request) -> Streams:
        """Answer the handshake; raises HTTPBadRequest for a client that speaks none of our versions."""
        socket = web.WebSocketResponse(protocols=PROTOCOLS, heartbeat=HEARTBEAT_S, max_msg_size=1 << 22, compress=False)
        if not socket.can_prepare(request):
            raise web.HTTPBadRequest(text="a WebSocket upgrade is needed")
        await socket.prepare(request)
        if socket.ws_protocol not in PROTOCOLS:
            await socket.close(code=1002, message=b"no common subprotocol")
            raise web.HTTPBadRequest(text=f"none of the subprotocols {', '.join(PROTOCOLS)}")
        # An empty message tells the client that the channels are open.
        await socket.send_bytes(bytes([Channel.STDOUT]))
        return cls(socket)

    async def send(self, channel: Channel, data: bytes) -> None:
        """Bytes on a channel; a client that has gone away is noticed by `receive`."""
        if not self._socket.closed:
            try:
                await self._socket.send_bytes(bytes([channel]) + data)
            except ConnectionError:
                return

    async def finish(self, status: Object) -> None:
        """The last word, on the error channel."""
        await self.send(Channel.ERROR, orjson.dumps(status))
        await self._socket.close()

    async def receive(self) -> AsyncIterator[Input | Resize]:
        """What the client sends, until it goes away."""
        async for message in self._socket:
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                continue
            data = message.data if isinstance(message.data, bytes) else message.data.encode()
            if not data:
                continue
            if data[0] == CLOSE and len(data) > 1 and data[1] == Channel.STDIN:
                yield Input(b"")
            elif data[0] == Channel.STDIN and len(data) > 1:
                yield Input(data[1:])
            elif data[0] == Channel.RESIZE and len(data) > 1:
                size = orjson.loads(data[1:])
                yield Resize(int(size["Width"]), int(size["Height"]))
