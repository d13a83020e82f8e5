"""Requests on resources: from a place and a verb to what does it, and its answer.

Here a request has been authenticated; authorization is the first thing that is asked, before whether anything exists.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket

from egresslab.cluster.apiserver import deletion, selection, status
from egresslab.cluster.apiserver.authentication import User
from egresslab.cluster.apiserver.authorization import Attempt, Authorizer, explain
from egresslab.cluster.apiserver.conversion import convert
from egresslab.cluster.apiserver.declarations import SUBRESOURCE_KINDS, ResourceType
from egresslab.cluster.apiserver.decoding import identify
from egresslab.cluster.apiserver.documents import PATCHES, Shape, answer, read, wanted
from egresslab.cluster.apiserver.kubelets import Kubelets
from egresslab.cluster.apiserver.reading import Reader
from egresslab.cluster.apiserver.registry import Registry
from egresslab.cluster.apiserver.requests import Place, WriteOptions, named, place, verb, write_options
from egresslab.cluster.apiserver.reviews import Reviewer
from egresslab.cluster.apiserver.store import Entry
from egresslab.cluster.apiserver.subresources import Subresources
from egresslab.cluster.apiserver.writing import Writer

_STREAMS = ("exec", "attach")


class Resources:
    """Serves everything below /api/VERSION and /apis/GROUP/VERSION."""

    def __init__(
        self,
        registry: Registry,
        authorizer: Authorizer,
        reader: Reader,
        writer: Writer,
        deleter: deletion.Deleter,
        subresources: Subresources,
        reviewer: Reviewer,
        kubelets: Kubelets,
    ) -> None:
        self._registry, self._authorizer, self._reader, self._writer = registry, authorizer, reader, writer
        self._deleter, self._subresources, self._reviewer = deleter, subresources, reviewer
        self._kubelets = kubelets

    def _locate(self, path: str, user: User, method: str, query: Any) -> tuple[Place, str, ResourceType]:
        where = place(path)
        if where is None or not where.plural:
            raise status.not_served(path)
        action = verb(method, where, query)
        resource = f"{where.plural}/{where.subresource}" if where.subresource else where.plural
        namespace = where.name if where.plural == "namespaces" and not where.group else where.namespace
        attempt = Attempt(action, where.group, resource, namespace, named(where, query))
        if not self._authorizer.allows(user, attempt):
            raise status.forbidden(where.group, resource, where.name, explain(user, attempt))
        kind = self._registry.find(where.group, where.version, where.plural)
        if kind is None or not kind.verbs or not kind.serves(where.subresource):
            raise status.not_served(f"{resource}.{where.group}".rstrip("."))
        if bool(where.namespace) is not kind.namespaced and (where.name or where.namespace or action == "create"):
            raise status.not_served(path)
        if not where.subresource and action not in kind.verbs:
            raise status.method_not_allowed()
        return where, action, kind

    async def stream(self, socket: WebSocket, user: User) -> None:
        """exec and attach over WebSocket."""
        where, _, kind = self._locate(socket.url.path, user, "GET", socket.query_params)
        if where.subresource not in _STREAMS:
            raise status.bad_request("only exec and attach are streams")
        entry = self._reader.entry(kind, where.namespace, where.name)
        await self._kubelets.stream(socket, self._kubelets.url(where.subresource, entry, socket.query_params))

    async def serve(self, request: Request, user: User, body: bytes) -> Response:
        """Any other request."""
        query = request.query_params
        where, action, kind = self._locate(request.url.path, user, request.method, query)
        accept = request.headers.get("accept", "")
        media = request.headers.get("content-type", "").partition(";")[0].strip()
        options = write_options(user, query, request.headers.get("user-agent", ""))
        if where.subresource and where.subresource != "status":
            return await self._below(request, where, action, kind, options, body, media)
        name, namespace = where.name, where.namespace
        shapes = (Shape.TABLE, Shape.METADATA if name else Shape.METADATA_LIST)
        match action:
            case "get":
                return answer(self._reader.get(kind, namespace, name, wanted(accept, *shapes), query))
            case "list":
                return answer(self._reader.list_body(kind, namespace, wanted(accept, *shapes), query))
            case "watch":
                lines = self._reader.watch(kind, namespace, wanted(accept, Shape.TABLE, Shape.METADATA), query)
                return await _streamed(lines, "application/json")
            case "create":
                content = read(body, media)
                if not kind.stored:
                    return answer(self._reviewer.review(identify(kind, content), namespace, user), 201)
                return _written(kind, await self._writer.create(kind, namespace, content, options), options, 201)
            case "update":
                content = read(body, media)
                entry = await self._writer.replace(kind, namespace, name, content, options, where.subresource)
                return _written(kind, entry, options)
            case "patch":
                if media not in PATCHES:
                    raise status.unsupported_media_type(media, PATCHES)
                patch = read(body, media)
                entry, made = await self._writer.patch(kind, namespace, name, patch, media, options, where.subresource)
                return _written(kind, entry, options, 201 if made else 200)
        how = deletion.read_options(read(body, media) if body else None, query)
        if action == "delete":
            return answer(self._deleter.delete(kind, self._reader.entry(kind, namespace, name), how))
        chosen = selection.parse(kind, namespace, query)
        gone = [entry for entry in list(self._reader.bucket(kind).entries.values()) if chosen.matches(entry)]
        for entry in gone:
            self._deleter.delete(kind, entry, how)
        head = {"kind": kind.list_name, "apiVersion": kind.api_version, "metadata": {}}
        return answer(orjson.dumps(head)[:-1] + b',"items":[' + b",".join(convert(kind, e) for e in gone) + b"]}")

    async def _below(
        self,
        request: Request,
        where: Place,
        action: str,
        kind: ResourceType,
        options: WriteOptions,
        body: bytes,
        media: str,
    ) -> Response:
        name, namespace, sub = where.name, where.namespace, where.subresource
        if action not in SUBRESOURCE_KINDS[sub][3]:
            raise status.method_not_allowed()
        if sub == "finalize":
            return answer(await self._subresources.finalize(kind, name, read(body, media), options))
        entry = self._reader.entry(kind, namespace, name)
        match sub:
            case "scale" if action == "get":
                return answer(self._subresources.scale(kind, entry))
            case "scale":
                patch_type = media if action == "patch" else ""
                content = read(body, media)
                return answer(await self._subresources.set_scale(kind, namespace, name, content, patch_type, options))
            case "binding":
                return answer(await self._subresources.bind(kind, namespace, name, read(body, media), options), 201)
            case "eviction":
                return answer(await self._subresources.evict(kind, namespace, name, entry, read(body, media)), 201)
            case "token":
                return answer(self._subresources.token(entry, kind, read(body, media)), 201)
            case "log" if not entry.fields["spec.nodeName"]:
                return Response(media_type="text/plain")
            case "log":
                url = self._kubelets.url("containerLogs", entry, request.query_params)
                return await _streamed(self._kubelets.log(url), "text/plain")
            case "exec" | "attach":
                # kubectl falls back to SPDY when its WebSocket was refused; it shall hear why that was.
                await self._kubelets.check(self._kubelets.url(sub, entry, request.query_params))
                raise status.bad_request("Upgrade request required")
        return answer(convert(kind, entry))


async def _streamed(chunks: AsyncIterator[bytes], media: str) -> Response:
    """A streaming answer whose first, empty chunk has come, so that a refusal is still an error answer."""
    await anext(chunks)
    return StreamingResponse(chunks, headers={"Cache-Control": "no-cache, private"}, media_type=media)


def _written(kind: ResourceType, entry: Entry, options: WriteOptions, code: int = 200) -> Response:
    response = answer(convert(kind, entry), code)
    for warning in options.warnings:
        text = warning.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.append("Warning", f'299 - "{text}"')
    return response
