"""What is served, in the forms that clients ask for: group and resource lists, and aggregated discovery (v2).

kubectl reads the aggregated form; older clients and the Python client's dynamic client read the lists.
"""

from __future__ import annotations

from egresslab.api.resources import Object
from egresslab.cluster.apiserver.declarations import SUBRESOURCE_KINDS, ResourceType, StatusWrites
from egresslab.cluster.apiserver.registry import Registry

Named = dict[str, dict[str, list[ResourceType]]]


def _subresources(kind: ResourceType) -> list[tuple[str, str, str, str, list[str]]]:
    """(name, group, version, kind, verbs) of each subresource."""
    found = []
    names = [*kind.subresources]
    if kind.status is not StatusWrites.PLAIN:
        names.append("status")
    for name in sorted(names):
        group, version, word, verbs = SUBRESOURCE_KINDS.get(name, ("", "", "", ("get", "patch", "update")))
        if not version:
            group, version, word = kind.group, kind.version, kind.kind
        found.append((name, group, version, word, list(verbs)))
    return found


def versions() -> Object:
    """/api."""
    everywhere = {"clientCIDR": "0.0.0.0/0", "serverAddress": ""}
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [everywhere]}


def _group(name: str, served: dict[str, list[ResourceType]]) -> Object:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in served]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def groups(registry: Registry) -> Object:
    """/apis."""
    listed = [_group(name, served) for name, served in registry.groups().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def group(registry: Registry, name: str) -> Object | None:
    """/apis/GROUP, or None when it is not served."""
    served = registry.groups().get(name)
    return None if not served or not name else {"kind": "APIGroup", "apiVersion": "v1", **_group(name, served)}


def resources(registry: Registry, name: str, version: str) -> Object | None:
    """/api/v1 or /apis/GROUP/VERSION, or None when it is not served."""
    kinds = registry.groups().get(name, {}).get(version)
    if kinds is None:
        return None
    listed = []
    for kind in kinds:
        entry: Object = {
            "name": kind.plural,
            "singularName": kind.singular_name,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": sorted(kind.verbs),
        }
        if kind.short_names:
            entry["shortNames"] = list(kind.short_names)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        listed.append(entry)
        for sub, sub_group, sub_version, word, verbs in _subresources(kind):
            below: Object = {"name": f"{kind.plural}/{sub}", "singularName": "", "namespaced": kind.namespaced}
            below |= {"kind": word, "verbs": verbs}
            if (sub_group, sub_version) != (kind.group, kind.version):
                below |= {"group": sub_group, "version": sub_version}
            listed.append(below)
    group_version = f"{name}/{version}" if name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def aggregated(registry: Registry, *, core: bool, version: str) -> Object:
    """APIGroupDiscoveryList of the core group or of all others."""
    items = []
    for name, served in registry.groups().items():
        if (not name) is not core:
            continue
        shown = [
            {"version": each, "freshness": "Current", "resources": _entries(kinds)} for each, kinds in served.items()
        ]
        items.append({"metadata": {"name": name, "creationTimestamp": None} if name else {}, "versions": shown})
    api_version = f"apidiscovery.k8s.io/{version or 'v2'}"
    return {"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}


def _entries(kinds: list[ResourceType]) -> list[Object]:
    entries = []
    for kind in kinds:
        entry: Object = {
            "resource": kind.plural,
            "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "singularResource": kind.singular_name,
            "verbs": sorted(kind.verbs),
        }
        if kind.short_names:
            entry["shortNames"] = list(kind.short_names)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        below = [
            {
                "subresource": sub,
                "responseKind": {"group": group, "version": version, "kind": word},
                "verbs": verbs,
            }
            for sub, group, version, word, verbs in _subresources(kind)
        ]
        if below:
            entry["subresources"] = below
        entries.append(entry)
    return entries
