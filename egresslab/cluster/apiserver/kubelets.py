"""The way to kubelets: exec and attach over WebSocket frame by frame, logs as a stream.

The server understands nothing of what passes: the subprotocol that the client asks for is the kubelet's to speak,
so that old and new clients work alike. A pod's kubelet is at its node's InternalIP.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import aiohttp
from starlette.datastructures import QueryParams
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from egresslab.api.resources import Object
from egresslab.cluster.apiserver import status
from egresslab.cluster.apiserver.store import Entry, Store

logger = logging.getLogger(__name__)

PORT = 10250
_ANSWER_S = 10.0
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io")


class Kubelets:
    """Calls kubelets as user system:apiserver, with the token given. `close` ends what is under way."""

    def __init__(self, store: Store, token: str, authority: ssl.SSLContext | None, port: int = PORT) -> None:
        self._store, self._token, self._port = store, token, port
        self._authority: ssl.SSLContext | bool = authority or True
        self._made: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Cut all streams."""
        if self._made is not None:
            await self._made.close()

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._made is None:
            timeout = aiohttp.ClientTimeout(total=None, connect=_ANSWER_S)
            headers = {"Authorization": f"Bearer {self._token}"}
            self._made = aiohttp.ClientSession(
                timeout=timeout, headers=headers, connector=aiohttp.TCPConnector(limit=0)
            )
        return self._made

    def url(self, verb: str, entry: Entry, query: QueryParams) -> str:
        """The kubelet's URL for a verb on a pod's container; raises 400 when there is no such container or node."""
        pod = entry.object()
        node = (pod.get("spec") or {}).get("nodeName")
        namespace, name = entry.key
        if not node:
            raise status.bad_request(f"pod {name} does not have a host assigned")
        container = _container(pod, query.get("container"), name)
        kept = [(key, value) for key, value in query.multi_items() if key != "container"]
        tail = f"?{urlencode(kept)}" if kept else ""
        return f"https://{self._host(node)}:{self._port}/{verb}/{namespace}/{name}/{container}{tail}"

    def _host(self, node: str) -> str:
        entry = self._store.bucket("nodes").entries.get(("", node))
        if entry is None:
            raise status.not_found("", "nodes", node)
        for address in (entry.object().get("status") or {}).get("addresses") or ():
            if address.get("type") == "InternalIP":
                return f"[{address['address']}]" if ":" in address["address"] else str(address["address"])
        raise status.service_unavailable(f"node {node} has no InternalIP yet")

    async def log(self, url: str) -> AsyncIterator[bytes]:
        """A container's log. The first item comes when the kubelet has accepted; raises its refusal."""
        try:
            async with self._session.get(url, ssl=self._authority) as answer:
                if answer.status != 200:
                    text = (await answer.text()).strip()
                    reason = {400: "BadRequest", 404: "NotFound"}.get(answer.status, "InternalError")
                    raise status.Refusal(answer.status, reason, text or f"kubelet answered {answer.status}")
                yield b""
                async for chunk in answer.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(url, error) from error

    async def check(self, url: str) -> None:
        """Ask the kubelet as a client that cannot speak WebSocket; raises its refusal, or that it does not answer."""
        try:
            async with self._session.post(url, ssl=self._authority) as answer:
                if answer.status == 404:
                    raise status.Refusal(404, "NotFound", (await answer.text()).strip())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(url, error) from error

    async def stream(self, socket: WebSocket, url: str) -> None:
        """Join a client's WebSocket to the kubelet's until either ends; refuses the handshake when the kubelet does."""
        offered = [name for name in socket.scope.get("subprotocols") or () if name in _PROTOCOLS]
        if not offered:
            raise status.bad_request(f"unable to upgrade: none of the subprotocols {', '.join(_PROTOCOLS)} was offered")
        try:
            far = await self._session.ws_connect(url, protocols=offered, ssl=self._authority, max_msg_size=0)
        except aiohttp.WSServerHandshakeError as error:
            raise status.Refusal(error.status, "BadRequest", f"kubelet refused: {error.message}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(url, error) from error
        async with far:
            await socket.accept(far.protocol)
            tasks = [asyncio.create_task(_outwards(socket, far)), asyncio.create_task(_inwards(far, socket))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                        logger.info("stream to %s ended: %r", url.partition("?")[0], result)
        if socket.application_state is WebSocketState.CONNECTED and socket.client_state is WebSocketState.CONNECTED:
            await socket.close()


async def _outwards(socket: WebSocket, far: aiohttp.ClientWebSocketResponse) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("bytes") is not None:
            await far.send_bytes(message["bytes"])
        else:
            await far.send_str(message.get("text") or "")


async def _inwards(far: aiohttp.ClientWebSocketResponse, socket: WebSocket) -> None:
    async for message in far:
        if message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.type is aiohttp.WSMsgType.TEXT:
            await socket.send_text(message.data)


def _unreachable(url: str, error: BaseException) -> status.Refusal:
    place = url.partition("?")[0]
    why = f"error dialing backend: {error or type(error).__name__} ({place})"
    return status.Refusal(500, "InternalError", f"Internal error occurred: {why}")


def _container(pod: Object, asked: str | None, name: str) -> str:
    spec = pod.get("spec") or {}
    groups = ("initContainers", "containers", "ephemeralContainers")
    names = [container["name"] for group in groups for container in spec.get(group) or ()]
    if asked:
        if asked not in names:
            raise status.bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    main = [container["name"] for container in spec.get("containers") or ()]
    if len(main) != 1:
        listed = " ".join(main)
        raise status.bad_request(f"a container name must be specified for pod {name}, choose one of: [{listed}]")
    return str(main[0])
