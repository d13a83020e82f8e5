"""Objects for policy commands on a running cluster: read once, over the official client, and nothing is written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from egresslab.api.connection import Api, ApiError, connect
from egresslab.api.resources import (
    CILIUM_POLICIES,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    Resource,
)
from egresslab.cli.manifests import Document
from egresslab.errors import ClusterError
from egresslab.policy.inventory import ActiveChoice
from egresslab.policy.model import Dialect, GroupKey

CILIUM_ENDPOINTS = Resource("cilium.io", "v2", "ciliumendpoints", "CiliumEndpoint")
POLICY_KINDS = (
    NAMESPACES,
    NODES,
    PODS,
    DECKHOUSE_GATEWAYS,
    EGRESSLAB_GATEWAYS,
    CILIUM_POLICIES,
    DECKHOUSE_POLICIES,
    EGRESSLAB_POLICIES,
    CILIUM_ENDPOINTS,
)
"""What decisions are made from."""
READ = (*POLICY_KINDS, SERVICES)


def read_cluster(kubeconfig: Path, context: str | None = None) -> list[Document]:
    """Everything that decisions need; kinds that the cluster does not serve are left out. Raises `ClusterError`."""
    return asyncio.run(_read(kubeconfig, context))


async def _read(kubeconfig: Path, context: str | None) -> list[Document]:
    async with connect(kubeconfig, context) as api:
        return await read_objects(api)


async def read_objects(api: Api, resources: Iterable[Resource] = READ) -> list[Document]:
    """The same over a connection. Raises `ApiError` and `Unreachable`."""
    documents: list[Document] = []
    for resource in resources:
        items: list[dict[str, Any]] = []
        try:
            items, _ = await api.list(resource)
        except ApiError as error:
            if error.status == 403:
                fix = "ask for a ClusterRole as in docs/verify.md, or name another --context"
                raise ClusterError(str(error.message), object=resource.plural, fix=fix) from error
            if error.status != 404:
                raise
        documents += [Document(item, f"{resource.plural}/{item['metadata']['name']}", 1) for item in items]
    return documents


def observed_choices(documents: Iterable[Document]) -> Iterator[ActiveChoice]:
    """Who holds each gateway's lease, as its status says: the gateway is that node, whatever a list of names says."""
    for document in documents:
        obj, status = document.obj, document.obj.get("status") or {}
        dialect = {r.api_version: Dialect(r.api_version) for r in (DECKHOUSE_GATEWAYS, EGRESSLAB_GATEWAYS)}
        if obj.get("kind") == "EgressGateway" and obj.get("apiVersion") in dialect:
            active = status.get("activeNode") or status.get("activeNodeName")
            if active:
                yield ActiveChoice(GroupKey(dialect[obj["apiVersion"]], obj["metadata"]["name"]), active)


def carried_out(documents: Iterable[Document]) -> set[str]:
    """UIDs of policies for which an operator has written CiliumEgressGatewayPolicies: those count in their stead."""
    return {
        owner.get("uid", "")
        for document in documents
        if document.obj.get("kind") == CILIUM_POLICIES.kind
        for owner in document.obj.get("metadata", {}).get("ownerReferences") or ()
        if owner.get("kind") == EGRESSLAB_POLICIES.kind
    } - {""}
