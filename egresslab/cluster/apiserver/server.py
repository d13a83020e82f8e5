"""The API server put together: an ASGI application over one store, its limits, and its end.

Authentication, the body's size and the time a client may take to send it are seen to here, before anything is asked of
the rest. uvicorn speaks HTTP and TLS; this module never does.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from egresslab.cluster.apiserver import discovery, status
from egresslab.cluster.apiserver.admission import Admission
from egresslab.cluster.apiserver.authentication import ANONYMOUS, Authenticator, User, read_tokens
from egresslab.cluster.apiserver.authorization import Attempt, Authorizer, explain
from egresslab.cluster.apiserver.bootstrap import bootstrap
from egresslab.cluster.apiserver.definitions import Publisher
from egresslab.cluster.apiserver.deletion import Deleter
from egresslab.cluster.apiserver.documents import Shape, answer, wanted
from egresslab.cluster.apiserver.events import Expiry
from egresslab.cluster.apiserver.kubelets import Kubelets
from egresslab.cluster.apiserver.openapi import SWAGGER, SWAGGER_MEDIA, Documents
from egresslab.cluster.apiserver.reading import Reader
from egresslab.cluster.apiserver.registry import Registry
from egresslab.cluster.apiserver.resources import Resources
from egresslab.cluster.apiserver.reviews import Reviewer
from egresslab.cluster.apiserver.store import HISTORY, Store
from egresslab.cluster.apiserver.subresources import Subresources
from egresslab.cluster.apiserver.webhooks import Webhooks
from egresslab.cluster.apiserver.writing import Writer

logger = logging.getLogger(__name__)

LONGEST_BODY = 3 * 1024 * 1024
BODY_TIME_S = 30.0
VERSION = {
    "major": "1",
    "minor": "37",
    "gitVersion": "v1.37.1+egresslab",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
_OPEN_PATHS = ("/healthz", "/livez", "/readyz", "/version")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server needs to know. `state` None keeps everything in memory; `endpoint` is where pods reach it."""

    state: Path | None = None
    tokens: Path | None = None
    services: IPv4Network | IPv6Network = field(default_factory=lambda: IPv4Network("10.96.0.0/16"))
    endpoint: tuple[str, int] | None = None
    kubelet_token: str = ""
    kubelet_port: int = 10250
    authority: Path | None = None
    accounts: bool = True
    history: int = HISTORY


class ApiServer:
    """One API server; `app` is the ASGI application. `start` before serving, `stop` to end its streams."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.store = store = Store(settings.state, settings.history)
        self._registry = registry = Registry()
        for kind in registry.all():
            store.bucket(kind.bucket, kind.fields)
        Publisher(store, registry)
        users = read_tokens(settings.tokens) if settings.tokens else {}
        self._authenticator = Authenticator(store, users)
        self._authorizer = Authorizer(store)
        self._webhooks = Webhooks(store)
        admission = Admission(store, self._webhooks, settings.services, accounts=settings.accounts)
        self._reader = Reader(store)
        self._writer = Writer(store, admission)
        deleter = Deleter(store)
        authority = ssl.create_default_context(cafile=str(settings.authority)) if settings.authority else None
        self._kubelets = Kubelets(store, settings.kubelet_token, authority, settings.kubelet_port)
        self._documents = Documents(registry)
        self._expiry = Expiry(store)
        self._resources = Resources(
            registry,
            self._authorizer,
            self._reader,
            self._writer,
            deleter,
            Subresources(store, self._writer, deleter, self._authenticator, self._webhooks),
            Reviewer(self._authenticator, self._authorizer),
            self._kubelets,
        )
        self.app: ASGIApp = Starlette(
            routes=[
                Route("/{path:path}", self._http, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
                WebSocketRoute("/{path:path}", self._websocket),
            ]
        )

    async def start(self) -> None:
        """Fill in what a fresh cluster has."""
        await bootstrap(self.store, self._registry, self._writer, self._settings.services, self._settings.endpoint)
        self._expiry.start()

    async def stop(self) -> None:
        """End watches and streams, and let go of the state."""
        self._reader.close()
        await self._expiry.stop()
        await self._kubelets.close()
        await self._webhooks.close()

    def _user(self, headers: Headers, path: str) -> User:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not scheme and path in _OPEN_PATHS:
            return ANONYMOUS
        user = self._authenticator.user(token.strip()) if scheme.lower() == "bearer" and token else None
        if user is None:
            raise status.unauthorized()
        return self._authorizer.impersonated(user, headers) if "impersonate-user" in headers else user

    async def _http(self, request: Request) -> Response:
        try:
            user = self._user(request.headers, request.url.path)
            body = await _body(request) if request.method not in ("GET", "HEAD") else b""
            return await self._route(request, user, body)
        except status.Refusal as refusal:
            headers = {"Retry-After": "1"} if refusal.code in (429, 504) else None
            return answer(refusal.status(), refusal.code, headers)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            # A defect of ours: it keeps its traceback in the log, and the client still gets a Status.
            logger.exception("%s %s", request.method, request.url.path)
            fault = status.Refusal(500, "InternalError", f"Internal error occurred: {type(error).__name__}: {error}")
            return answer(fault.status(), 500)

    async def _route(self, request: Request, user: User, body: bytes) -> Response:
        path, accept = request.url.path.rstrip("/"), request.headers.get("accept", "")
        head = path.split("/")
        if head[1:2] in (["api"], ["apis"]) and len(head) > (3 if head[1] == "api" else 4):
            return await self._resources.serve(request, user, body)
        self._permit(user, request.method, path)
        found = None
        if path in ("/healthz", "/livez", "/readyz"):
            return PlainTextResponse("ok")
        if path == "/version":
            found = VERSION
        elif path in ("/api", "/apis"):
            want = wanted(accept, Shape.DISCOVERY)
            if want.shape is Shape.DISCOVERY:
                media = f"application/json;g=apidiscovery.k8s.io;v={want.version};as=APIGroupDiscoveryList"
                listed = discovery.aggregated(self._registry, core=path == "/api", version=want.version)
                return answer(listed, headers={"Content-Type": media})
            found = discovery.versions() if path == "/api" else discovery.groups(self._registry)
        elif path == "/openapi/v2":
            return Response(SWAGGER, media_type=SWAGGER_MEDIA)
        elif path == "/openapi/v3":
            found = self._documents.index()
        elif path.startswith("/openapi/v3/"):
            document = self._documents.document(path.removeprefix("/openapi/v3/"))
            if document is not None:
                return answer(document)
        elif head[1] == "apis" and len(head) == 3:
            found = discovery.group(self._registry, head[2])
        elif head[1] in ("api", "apis"):
            found = discovery.resources(self._registry, head[2] if head[1] == "apis" else "", head[-1])
        if found is None:
            raise status.not_served(path)
        return answer(found)

    def _permit(self, user: User, method: str, path: str) -> None:
        attempt = Attempt({"HEAD": "get"}.get(method, method.lower()), path=path or "/")
        if path not in _OPEN_PATHS and not self._authorizer.allows(user, attempt):
            raise status.Refusal(403, "Forbidden", f"forbidden: {explain(user, attempt)}", {})

    async def _websocket(self, socket: WebSocket) -> None:
        try:
            await self._resources.stream(socket, self._user(socket.headers, socket.url.path))
        except status.Refusal as refusal:
            await socket.send_denial_response(answer(refusal.status(), refusal.code))


async def _body(request: Request) -> bytes:
    """The whole body; raises 413 for one that is too large and 408 for one that does not come."""
    if int(request.headers.get("content-length") or 0) > LONGEST_BODY:
        raise status.entity_too_large(LONGEST_BODY)
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIME_S):
            async for part in request.stream():
                size += len(part)
                if size > LONGEST_BODY:
                    raise status.entity_too_large(LONGEST_BODY)
                parts.append(part)
    except TimeoutError as error:
        raise status.Refusal(408, "Timeout", f"the body did not arrive within {BODY_TIME_S:g} s") from error
    return b"".join(parts)
