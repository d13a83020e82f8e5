"""The pinned maps of a node, opened for looking only: nothing is loaded, replaced or attached by looking.

Debuggers use it beside a running agent, also one of another version, so it must never call `Datapath.open`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from egresslab.datapath.flowtable import FlowTable
from egresslab.datapath.gateways import EndpointMap, SlotMap
from egresslab.datapath.leases import NAMES as LEASE_NAMES
from egresslab.datapath.leases import LeaseMaps
from egresslab.datapath.libbpf import Libbpf
from egresslab.datapath.observation import Counters
from egresslab.datapath.policy import CidrSet, PolicyMap
from egresslab.datapath.table import open_table
from egresslab.errors import DatapathError

NO_MAPS = "Cannot find egress gateway bpf maps"
NAMES = (
    "egress_policy_v4",
    "egress_policy_v6",
    "gateway_slots",
    "egress_addresses",
    "endpoints",
    "cluster_cidrs",
    "nat_v4",
    "nat_v6",
    "counters",
    *LEASE_NAMES,
)


@dataclass(frozen=True, slots=True)
class PinnedMaps:
    """What a node's kernel holds, as views that read it anew each time."""

    policy: PolicyMap
    slots: SlotMap
    endpoints: EndpointMap
    cluster_cidrs: CidrSet
    nat: FlowTable
    counters: Counters
    leases: LeaseMaps


@contextmanager
def pinned_maps(pin_dir: Path) -> Iterator[PinnedMaps]:
    """The maps below `pin_dir`; raises `DatapathError` when one is not there."""
    libbpf = Libbpf()
    tables = {name: open_table(libbpf, pin_dir, name) for name in NAMES}
    opened = {name: table for name, table in tables.items() if table is not None}
    try:
        if len(opened) < len(NAMES):
            raise DatapathError(NO_MAPS, object=str(pin_dir), fix="run this on a node whose agent is up")
        yield PinnedMaps(
            PolicyMap(opened["egress_policy_v4"], opened["egress_policy_v6"]),
            SlotMap(opened["gateway_slots"], opened["egress_addresses"]),
            EndpointMap(opened["endpoints"]),
            CidrSet(opened["cluster_cidrs"]),
            FlowTable(opened["nat_v4"], opened["nat_v6"]),
            Counters(opened["counters"]),
            LeaseMaps(libbpf, pin_dir, opened),
        )
    finally:
        for table in opened.values():
            os.close(table.fd)
