"""Which resources the API server serves, custom ones included, for those controllers that act on every kind."""

from __future__ import annotations

from dataclasses import dataclass

from egresslab.api.connection import Api, ApiError
from egresslab.api.resources import Resource

NEEDED_VERBS = frozenset({"list", "watch", "delete"})


@dataclass(frozen=True, slots=True)
class Served:
    """Resources that can be listed, watched and deleted, one version of each."""

    resources: tuple[Resource, ...]

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource that an owner reference means; its version need not be the one that we follow."""
        group = api_version.rpartition("/")[0]
        return next((item for item in self.resources if (item.group, item.kind) == (group, kind)), None)


async def discover(api: Api) -> Served:
    """Ask the API server (Kubernetes "Discovery API"); a group that fails is left out, as one being removed may."""
    versions = [("", "v1")]
    for group in (await api.request("GET", "/apis"))["groups"]:
        preferred = group["preferredVersion"]["version"]
        others = [item["version"] for item in group["versions"] if item["version"] != preferred]
        versions += [(group["name"], version) for version in (preferred, *others)]
    found: dict[tuple[str, str], Resource] = {}
    for group_name, version in versions:
        path = f"/apis/{group_name}/{version}" if group_name else f"/api/{version}"
        try:
            listing = await api.request("GET", path)
        except ApiError as error:
            if error.status != 404:
                raise
            continue
        for item in listing["resources"]:
            if "/" not in item["name"] and NEEDED_VERBS.issubset(item["verbs"]):
                resource = Resource(group_name, version, item["name"], item["kind"], item["namespaced"])
                found.setdefault((group_name, item["name"]), resource)
    return Served(tuple(found.values()))
