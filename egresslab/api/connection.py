"""One asyncio connection to an API server, speaking plain dictionaries.

Our controllers handle kinds that the official client has no model for, and copy fields that they do not know; what is
left of that client, its own configuration and streams, is imported where it is used (`official`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import orjson

from egresslab.api.access import Access, of_kubeconfig, of_service_account
from egresslab.api.resources import Object, Resource
from egresslab.errors import ClusterError

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

USER_AGENT = "egresslab"
REQUEST_TIMEOUT_S = 15.0
WATCH_SILENCE_S = 90.0
"""A server sends a bookmark about once a minute; a watch that is silent for longer is taken for dead."""


class PatchType(StrEnum):
    """Media types of the patches an API server takes (Kubernetes API concepts, "Patch")."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class ApiError(ClusterError):
    """The API server answered with an error Status; `status` is the HTTP code, `reason` Kubernetes' word for it."""

    def __init__(self, message: str, *, status: int, reason: str, object: str | None = None) -> None:
        super().__init__(message, object=object)
        self.status = status
        self.reason = reason


class Unreachable(ClusterError):
    """No answer from the API server: connection refused, cut or timed out."""


class Forbidden(Unreachable):
    """A write that was not sent, because whoever asked for it may not write any more."""


class Api:
    """Requests on resources; every method raises `ApiError` for an error answer and `Unreachable` for none."""

    def __init__(
        self, access: Access, session: aiohttp.ClientSession, permits: Callable[[], bool] = lambda: True
    ) -> None:
        """`permits` is asked before each request that writes."""
        self._access = access
        self._permits = permits
        self._session = session
        self._url = access.url.rstrip("/")
        self._options: dict[str, Any] = dict(access.options)
        self.errors: Counter[str] = Counter()
        """Error answers so far by reason (`NotFound`, `Conflict`, …), and `Unreachable`."""

    def guarded(self, permits: Callable[[], bool]) -> Api:
        """The same connection for somebody who may write only while `permits` says so; else `Forbidden` is raised and
        nothing is sent."""
        api = Api(self._access, self._session, permits)
        api.errors = self.errors
        return api

    async def official(self) -> Configuration:
        """How the official client gets there, for its own parts such as leader election."""
        return await self._access.official()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """One object."""
        return await self._json("GET", resource.path(namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> tuple[list[Object], str]:
        """All objects and the resourceVersion of the list; kind and apiVersion are filled in on each item."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        answer = await self._json("GET", resource.path(namespace), query=query)
        items = cast("list[Object]", answer.get("items") or [])
        for item in items:
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return items, answer["metadata"]["resourceVersion"]

    async def create(
        self,
        resource: Resource,
        body: Object,
        namespace: str | None = None,
        subresource: str | None = None,
        name: str | None = None,
    ) -> Object:
        """POST; with `name` and `subresource` to a subresource such as a pod's binding."""
        return await self._json("POST", resource.path(namespace, name, subresource), body)

    async def replace(self, resource: Resource, body: Object, subresource: str | None = None) -> Object:
        """PUT of a whole object; its resourceVersion guards against lost updates (409 Conflict)."""
        namespace, name = body["metadata"].get("namespace"), body["metadata"]["name"]
        return await self._json("PUT", resource.path(namespace, name, subresource), body)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: object,
        namespace: str | None = None,
        *,
        patch_type: PatchType = PatchType.MERGE,
        subresource: str | None = None,
    ) -> Object:
        """PATCH with the given type."""
        path = resource.path(namespace, name, subresource)
        return await self._json("PATCH", path, body, content_type=patch_type)

    async def apply(
        self, resource: Resource, body: Object, *, field_manager: str, subresource: str | None = None
    ) -> Object:
        """Server-side apply; fields of other managers are taken over (`force`)."""
        namespace, name = body["metadata"].get("namespace"), body["metadata"]["name"]
        return await self._json(
            "PATCH",
            resource.path(namespace, name, subresource),
            body,
            query={"fieldManager": field_manager, "force": "true"},
            content_type=PatchType.APPLY,
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
        propagation: str | None = None,
    ) -> Object:
        """DELETE, only of the object with `uid` if given."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if propagation is not None:
            options["propagationPolicy"] = propagation
        return await self._json("DELETE", resource.path(namespace, name), options)

    async def request(self, method: str, path: str, body: object = None, **query: str) -> Object:
        """A request on any path (discovery, version, …) with a JSON answer."""
        return await self._json(method, path, body, query=query)

    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> AsyncIterator[Object]:
        """Watch events `{type, object}` from `resource_version` on, bookmarks too, until the server ends the stream."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        timeout = aiohttp.ClientTimeout(total=None, connect=REQUEST_TIMEOUT_S, sock_read=WATCH_SILENCE_S)
        path = resource.path(namespace)
        response = await self._send("GET", path, None, query, PatchType.MERGE, timeout)
        try:
            if response.status >= 400:
                raise self._refused(response.status, await response.read(), path)
            async for line in response.content:
                if line.strip():
                    yield orjson.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._silent(f"the watch broke off: {error!r}", path) from error
        finally:
            response.close()

    async def _json(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str | None] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        response = await self._send(method, path, body, query or {}, content_type, timeout)
        try:
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._silent(f"the answer broke off: {error!r}", f"{method} {path}") from error
        finally:
            response.release()
        if response.status >= 400:
            raise self._refused(response.status, data, path)
        return cast(Object, orjson.loads(data)) if data else {}

    async def _send(
        self,
        method: str,
        path: str,
        body: object,
        query: Mapping[str, str | None],
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        given = [(key, value) for key, value in query.items() if value is not None]
        data = None if body is None else orjson.dumps(body)
        try:
            if (authorization := await self._access.authorization()) is not None:
                headers["Authorization"] = authorization
            if method != "GET" and not self._permits():
                # Asked as late as can be: between the thought and the deed a process may have been stopped for long.
                raise Forbidden("not sent: others may be in charge by now", object=f"{method} {path}")
            return await self._session.request(
                method, self._url + path, params=given, data=data, headers=headers, timeout=timeout, **self._options
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._silent(f"the API server did not answer: {error!r}", f"{method} {path}") from error

    def _refused(self, status: int, data: bytes, path: str) -> ApiError:
        error = _error(status, data, path)
        self.errors[error.reason] += 1
        return error

    def _silent(self, message: str, what: str) -> Unreachable:
        self.errors["Unreachable"] += 1
        return Unreachable(message, object=what)


def _error(status: int, data: bytes, path: str) -> ApiError:
    try:
        answer: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    message = answer.get("message") or data.decode(errors="replace")[:200] or "no message"
    return ApiError(str(message), status=status, reason=str(answer.get("reason") or "Unknown"), object=path)


@asynccontextmanager
async def connect(kubeconfig: Path | None = None, context: str | None = None) -> AsyncIterator[Api]:
    """An `Api` for a kubeconfig file and a context in it, the current one by default; without a file for the service
    account of the pod we run in.

    Raises `ClusterError` when neither is usable.
    """
    async with connected(
        of_service_account() if kubeconfig is None else await of_kubeconfig(kubeconfig, context)
    ) as api:
        yield api


@asynccontextmanager
async def connected(access: Access) -> AsyncIterator[Api]:
    """An `Api` for a way that is known."""
    # No proxies and no .netrc: looking those up would send every request through a thread.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=access.ssl_context()),
        headers={"User-Agent": USER_AGENT},
        trust_env=False,
    ) as session:
        yield Api(access, session)
    await asyncio.sleep(0)
