"""Brings objects to the API server by server-side apply, in an order that works.

Namespaces and CRDs go first, everything else together afterwards. Which path an object has is asked of the server
(discovery), so that any kind it serves may stand in a manifest.
"""

from __future__ import annotations

import asyncio

from egresslab.api.connection import Api, ApiError
from egresslab.api.resources import Object, Resource
from egresslab.errors import EnvironmentFailure

FIELD_MANAGER = "egresslab-environment"
ACCOUNTS_DEADLINE_S, PAUSE_S = 20.0, 0.05
FIRST = ("Namespace", "CustomResourceDefinition")


class Applier:
    """Applies objects over one connection."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._served: dict[str, asyncio.Task[dict[str, Resource]]] = {}

    async def apply_all(self, objects: list[Object]) -> None:
        """Apply; raises `EnvironmentFailure` with the server's words for the first object that it refuses."""
        for kind in FIRST:
            await self._together([o for o in objects if o["kind"] == kind])
        await self._together([o for o in objects if o["kind"] not in FIRST])

    async def _together(self, objects: list[Object]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for obj in objects:
                    tasks.create_task(self._apply(obj))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _apply(self, obj: Object) -> None:
        name = f"{obj['kind']}/{obj['metadata']['name']}"
        resource = (await self._resources(obj["apiVersion"])).get(obj["kind"])
        if resource is None:
            raise EnvironmentFailure(
                "the API server does not serve this kind", object=name, field="apiVersion", value=obj["apiVersion"]
            )
        deadline = asyncio.get_running_loop().time() + ACCOUNTS_DEADLINE_S
        while True:
            try:
                await self._api.apply(resource, obj, field_manager=FIELD_MANAGER)
                return
            except ApiError as error:
                if not _account_missing(error) or asyncio.get_running_loop().time() > deadline:
                    raise EnvironmentFailure(f"the API server refused it: {error.message}", object=name) from error
            await asyncio.sleep(PAUSE_S)

    async def _resources(self, api_version: str) -> dict[str, Resource]:
        if api_version not in self._served:
            self._served[api_version] = asyncio.create_task(self._discover(api_version))
        return await self._served[api_version]

    async def _discover(self, api_version: str) -> dict[str, Resource]:
        group, _, version = api_version.rpartition("/")
        path = f"/apis/{api_version}" if group else f"/api/{version}"
        try:
            answer = await self._api.request("GET", path)
        except ApiError as error:
            raise EnvironmentFailure(f"the API server does not serve {api_version}", object=path) from error
        return {
            entry["kind"]: Resource(group, version, entry["name"], entry["kind"], entry["namespaced"])
            for entry in answer["resources"]
            if "/" not in entry["name"]
        }


def _account_missing(error: ApiError) -> bool:
    """Whether a pod was refused because a controller has not yet made its new namespace's service account."""
    return error.status == 403 and "serviceaccount" in error.message and "not found" in error.message
