"""Objects for policy commands on a running cluster: read once, over the official client, and nothing is written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from egresslab.api.connection import ApiError, connect
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

CILIUM_ENDPOINTS = Resource("cilium.io", "v2", "ciliumendpoints", "CiliumEndpoint")
READ = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    DECKHOUSE_GATEWAYS,
    EGRESSLAB_GATEWAYS,
    CILIUM_POLICIES,
    DECKHOUSE_POLICIES,
    EGRESSLAB_POLICIES,
    CILIUM_ENDPOINTS,
)


def read_cluster(kubeconfig: Path) -> list[Document]:
    """Everything that decisions need; kinds that the cluster does not serve are left out. Raises `ClusterError`."""
    return asyncio.run(_read(kubeconfig))


async def _read(kubeconfig: Path) -> list[Document]:
    documents: list[Document] = []
    async with connect(kubeconfig) as api:
        for resource in READ:
            items: list[dict[str, Any]] = []
            try:
                items, _ = await api.list(resource)
            except ApiError as error:
                if error.status != 404:
                    raise
            documents += [Document(item, f"{resource.plural}/{item['metadata']['name']}", 1) for item in items]
    return documents
