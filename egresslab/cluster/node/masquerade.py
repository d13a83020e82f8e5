"""Pods' traffic out of the cluster is hidden behind the node: one nftables table, replaced as a whole.

The table is ours alone; rules of others, before and after it, are not our business.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from egresslab.cluster.node.config import Network
from egresslab.errors import ClusterError

FAMILY, TABLE, CHAIN = "inet", "pod_network", "postrouting"
TIMEOUT_S = 10.0


def ruleset(pods: Sequence[Network], inside: Sequence[Network]) -> dict[str, Any]:
    """The table in the JSON of libnftables-json(5): masquerade what leaves `pods` for anywhere but `inside`."""
    table = {"family": FAMILY, "name": TABLE}
    chain = {"family": FAMILY, "table": TABLE, "name": CHAIN}
    hook = {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}
    commands: list[dict[str, Any]] = [
        {"add": {"table": table}},
        {"delete": {"table": table}},
        {"add": {"table": table}},
        {"add": {"chain": {**chain, **hook}}},
    ]
    for network in pods:
        matches = [_match("==", "saddr", network)]
        matches += [_match("!=", "daddr", other) for other in inside if other.version == network.version]
        rule = {"family": FAMILY, "table": TABLE, "chain": CHAIN, "expr": [*matches, {"masquerade": None}]}
        commands.append({"add": {"rule": rule}})
    return {"nftables": commands}


def _match(operator: str, field: str, network: Network) -> dict[str, Any]:
    protocol = "ip" if network.version == 4 else "ip6"
    left = {"payload": {"protocol": protocol, "field": field}}
    right = {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
    return {"match": {"op": operator, "left": left, "right": right}}


def install(pods: Sequence[Network], inside: Sequence[Network]) -> None:
    """Put the table into the kernel in one transaction, at start; raises `ClusterError` with nft's own words."""
    text = json.dumps(ruleset(pods, inside)).encode()
    try:
        subprocess.run(["nft", "-j", "-f", "-"], input=text, capture_output=True, check=True, timeout=TIMEOUT_S)
    except FileNotFoundError as error:
        raise ClusterError("nft is not installed", fix="apt-get install nftables") from error
    except subprocess.CalledProcessError as error:
        complaint = error.stderr.decode(errors="replace").strip()
        raise ClusterError(f"nft refused the table: {complaint}", object=TABLE) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"nft took longer than {TIMEOUT_S:g} s", object=TABLE) from error
