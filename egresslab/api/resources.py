"""Kinds of objects by name: where they live in the API, for everything of ours that talks to a cluster.

Objects themselves stay the dictionaries that the API server sent: a type for each would hide the fields we do not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as decoded JSON."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One served resource: `group` is empty for the core group, `plural` is the name in URLs."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What `apiVersion` says in its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path (Kubernetes API concepts, "Resource URIs") of the collection, an object or its subresource."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
EVENTS = Resource("", "v1", "events", "Event")
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
SERVICES = Resource("", "v1", "services", "Service")
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
REPLICASETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
DAEMONSETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
CILIUM_POLICIES = Resource(
    "cilium.io", "v2", "ciliumegressgatewaypolicies", "CiliumEgressGatewayPolicy", namespaced=False
)
DECKHOUSE_GATEWAYS = Resource("network.deckhouse.io", "v1alpha1", "egressgateways", "EgressGateway", namespaced=False)
DECKHOUSE_POLICIES = Resource(
    "network.deckhouse.io", "v1alpha1", "egressgatewaypolicies", "EgressGatewayPolicy", namespaced=False
)
EGRESSLAB_GATEWAYS = Resource("egresslab.dev", "v1alpha1", "egressgateways", "EgressGateway", namespaced=False)
EGRESSLAB_POLICIES = Resource(
    "egresslab.dev", "v1alpha1", "egressgatewaypolicies", "EgressGatewayPolicy", namespaced=False
)
FAULTS = Resource("egresslab.dev", "v1alpha1", "faults", "Fault", namespaced=False)


def key_of(obj: Object) -> tuple[str, str]:
    """(namespace, name); the namespace is empty for cluster-scoped objects."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
