"""The kubelet's HTTPS server: exec, attach and logs for the API server, which is its only client.

Paths and parameters are those of a real kubelet, so that an API server needs to know nothing of this one.
"""

from __future__ import annotations

import hmac
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from time import time_ns

from aiohttp import web

from egresslab.cluster.node.config import Address, NodeConfig
from egresslab.cluster.node.containers import Container
from egresslab.cluster.node.logs import LogRequest
from egresslab.cluster.node.pods import PodWorker
from egresslab.cluster.node.podset import PodSet
from egresslab.cluster.node.sessions import attach, execute
from egresslab.cluster.node.streams import Streams
from egresslab.errors import ClusterError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TRUE = ("1", "true")
IP_FREEBIND = 15
"""ip(7); Python's socket module does not have it."""


def _flag(request: web.Request, *names: str) -> bool:
    """A parameter under the API server's name or the kubelet's own (`stdin` is `input` there)."""
    return any(request.query.get(name, "").lower() in TRUE for name in names)


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None or text == "":
        return None
    try:
        return max(0, int(text))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{name} is not a number: {text!r}") from error


def log_request(request: web.Request, now_ns: int) -> LogRequest:
    """PodLogOptions of a request; raises HTTPBadRequest."""
    since = None
    if (seconds := _number(request, "sinceSeconds")) is not None:
        since = now_ns - seconds * 1_000_000_000
    elif text := request.query.get("sinceTime"):
        try:
            since = int(datetime.fromisoformat(text).timestamp() * 1e9)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"sinceTime is no time: {text!r}") from error
    return LogRequest(
        follow=_flag(request, "follow"),
        timestamps=_flag(request, "timestamps"),
        tail_lines=_number(request, "tailLines"),
        since_ns=since,
        limit_bytes=_number(request, "limitBytes"),
    )


API_SERVER = ("commonName", "system:apiserver")


class KubeletServer:
    """Handlers on the pods of this node."""

    def __init__(self, config: NodeConfig, pods: PodSet) -> None:
        self._config = config
        self._pods = pods

    def application(self) -> web.Application:
        """All routes, behind the token or the API server's certificate."""

        @web.middleware
        async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
            given = request.headers.get("Authorization", "")
            peer = request.transport.get_extra_info("peercert") if request.transport else None
            if peer and API_SERVER in (pair for part in peer["subject"] for pair in part):
                return await handler(request)
            if not hmac.compare_digest(given.encode(), f"Bearer {self._config.kubelet.token}".encode()):
                raise web.HTTPUnauthorized(text="Unauthorized")
            return await handler(request)

        application = web.Application(middlewares=[authenticate])
        application.router.add_get("/healthz", self._healthz)
        for method in ("GET", "POST"):
            application.router.add_route(method, "/exec/{namespace}/{pod}/{container}", self._exec)
            application.router.add_route(method, "/attach/{namespace}/{pod}/{container}", self._attach)
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        return application

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    def _worker(self, request: web.Request) -> PodWorker:
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        worker = self._pods.find(namespace, name)
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{namespace}/{name}" not found on node {self._config.name}')
        return worker

    def _container(self, request: web.Request) -> Container:
        """The running container of a request."""
        name = request.match_info["container"]
        runner = self._worker(request).runners.get(name)
        if runner is None:
            raise web.HTTPNotFound(text=f'container "{name}" not found in pod')
        if runner.container is None or not runner.state.running:
            raise web.HTTPNotFound(text=f'container not found ("{name}")')
        return runner.container

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        container = self._container(request)
        command = request.query.getall("command", [])
        if not command:
            raise web.HTTPBadRequest(text="you must specify at least 1 command for the container")
        streams = await Streams.accept(request)
        await execute(
            streams,
            container,
            command,
            stdin=_flag(request, "stdin", "input"),
            stdout=_flag(request, "stdout", "output"),
            stderr=_flag(request, "stderr", "error"),
            tty=_flag(request, "tty"),
        )
        return streams.response

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        container = self._container(request)
        streams = await Streams.accept(request)
        await attach(streams, container, stdin=_flag(request, "stdin", "input"))
        return streams.response

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        wanted = log_request(request, time_ns())
        name = request.match_info["container"]
        runner = self._worker(request).runners.get(name)
        if runner is None:
            raise web.HTTPNotFound(text=f'container "{name}" not found in pod')
        container = runner.previous() if _flag(request, "previous") else runner.container
        if container is None:
            pod = request.match_info["pod"]
            which = "previous terminated container" if _flag(request, "previous") else "container"
            reason = runner.state.waiting[0]
            raise web.HTTPBadRequest(text=f'{which} "{name}" in pod "{pod}" is waiting to start: {reason}')
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for piece in container.log.read(wanted):
            await response.write(piece)
        return response


def _listen(address: Address, port: int) -> socket.socket:
    """A socket on an address that need not be there yet: a node's links may come up after its process."""
    listener = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    try:
        listener.bind((str(address), port))
    except OSError as error:
        listener.close()
        raise ClusterError(f"cannot listen: {error.strerror}", object=f"{address} port {port}") from error
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def serving(config: NodeConfig, pods: PodSet) -> AsyncIterator[None]:
    """Serve on every internal address while the context is open; raises `ClusterError` when that is not possible."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.kubelet.certificate, config.kubelet.key)
        # Whom the cluster's own CA certified as a client: kube-apiserver has no token for kubelets.
        context.load_verify_locations(config.api.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    except OSError as error:
        raise ClusterError(f"no usable certificate: {error}", object=str(config.kubelet.certificate)) from error
    runner = web.AppRunner(KubeletServer(config, pods).application(), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        for address in config.internal_addresses:
            listener = _listen(address, config.kubelet.port)
            await web.SockSite(runner, listener, ssl_context=context, shutdown_timeout=0.2).start()
        yield
    finally:
        await runner.cleanup()
