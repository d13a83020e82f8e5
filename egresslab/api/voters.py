"""The voters as the cluster knows them: the ConfigMap that the operator keeps and every agent follows.

`data.version` is a whole number that grows with every change, `data.voters` a list of node names (YAML; we write JSON).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from egresslab.api.resources import Object
from egresslab.errors import ClusterError

NAMESPACE, NAME = "kube-system", "egresslab-voters"


@dataclass(frozen=True, slots=True)
class VoterSet:
    """Which nodes vote; `version` grows with every change, so that an older set never replaces a newer one."""

    version: int
    nodes: tuple[str, ...]

    @property
    def quorum(self) -> int:
        """How many of them are a majority."""
        return len(self.nodes) // 2 + 1


def parse_voters(configmap: Object) -> VoterSet:
    """The voters in the ConfigMap; raises `ClusterError` naming the field that is wrong."""
    data: Any = configmap.get("data")
    if not isinstance(data, Mapping):
        data = {}
    try:
        version, nodes = yaml.safe_load(str(data.get("version"))), yaml.safe_load(str(data.get("voters")))
    except yaml.YAMLError as error:
        raise _refusal("data", f"is not YAML: {error}", dict(data)) from error
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _refusal("data.version", "must be a whole number, 1 or more", version)
    if not isinstance(nodes, list) or not nodes or not all(isinstance(node, str) and node for node in nodes):
        raise _refusal("data.voters", "must be a list of node names", nodes)
    if len(set(nodes)) != len(nodes):
        raise _refusal("data.voters", "names a node twice", nodes)
    return VoterSet(version, tuple(nodes))


def voters_configmap(voters: VoterSet) -> Object:
    """The ConfigMap that says who votes."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {"version": str(voters.version), "voters": json.dumps(list(voters.nodes))},
    }


def _refusal(field: str, message: str, value: object) -> ClusterError:
    return ClusterError(
        message,
        object=f"ConfigMap {NAMESPACE}/{NAME}",
        field=field,
        value=value,
        fix="delete the ConfigMap: the operator writes it anew",
    )
