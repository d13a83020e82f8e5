"""How full the maps are and which source ports are in use, counted a little at a time.

Maps hold up to hundreds of thousands of entries, so this reads bytes, makes no values of them, and lets others have
their turn in between. It opens the pins of its own accord and changes nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from egresslab.datapath.addresses import known
from egresslab.datapath.layout import FLOW, FLOW_KEY_V4, FLOW_KEY_V6
from egresslab.datapath.libbpf import Libbpf, get_pinned, map_info
from egresslab.datapath.table import Table
from egresslab.datapath.values import FlowKind, IPAddress

COUNTED = ("egress_policy_v4", "egress_policy_v6", "gateway_slots", "endpoints", "egress_addresses", "cluster_cidrs")
FLOW_TABLES = {"nat_v4": FLOW_KEY_V4, "nat_v6": FLOW_KEY_V6}
AT_ONCE = 4_096
"""Entries between two turns of others: some milliseconds."""
PORT_HOLDERS = frozenset({FlowKind.TRANSLATED, FlowKind.NODE})


@dataclass(frozen=True, slots=True)
class Fill:
    """How many entries a map holds, and for how many it has room."""

    entries: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Ports:
    """Source ports of one egress address and protocol: how many are in use at all, and towards the one destination
    (address and port) that uses most, which is where they run out first."""

    used: int
    one_destination: int


@dataclass(frozen=True, slots=True)
class Count:
    """One census. `ports` by egress address and IP protocol number."""

    maps: Mapping[str, Fill]
    flows: Mapping[FlowKind, int]
    ports: Mapping[tuple[IPAddress, int], Ports]


class Census:
    """Counts what is pinned below `pin_dir`; maps that are not there are left out."""

    def __init__(self, pin_dir: Path) -> None:
        libbpf = Libbpf()
        self._tables: dict[str, Table] = {}
        self._room: dict[str, int] = {}
        for name in (*COUNTED, *FLOW_TABLES):
            fd = get_pinned(libbpf, pin_dir / name)
            if fd is not None:
                info = map_info(libbpf, fd)
                self._tables[name] = Table(libbpf, name, fd, info.key_size, info.value_size)
                self._room[name] = info.max_entries

    def close(self) -> None:
        """Close the maps."""
        for table in self._tables.values():
            os.close(table.fd)
        self._tables = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def take(self) -> Count:
        """Count once. What comes and goes meanwhile may be counted or not."""
        entries = {name: await _size(table) for name, table in self._tables.items() if name in COUNTED}
        flows: Counter[FlowKind] = Counter(dict.fromkeys(FlowKind, 0))
        used: defaultdict[tuple[bytes, int], set[bytes]] = defaultdict(set)
        towards: defaultdict[tuple[bytes, int], Counter[bytes]] = defaultdict(Counter)
        for name, key_layout in FLOW_TABLES.items():
            if name not in self._tables:
                continue
            entries[name] = 0
            for batch in self._tables[name].batches(AT_ONCE):
                entries[name] += len(batch)
                for key, value in batch:
                    _, _, address, _, _, _, port, kind, _ = FLOW.unpack(value)
                    flows[FlowKind(kind)] += 1
                    if kind in PORT_HOLDERS:
                        _, remote, _, remote_port, protocol, reply, _ = key_layout.unpack(key)
                        if not reply:
                            used[address, protocol].add(port)
                            towards[address, protocol][remote + remote_port] += 1
                await asyncio.sleep(0)
        return Count(
            {name: Fill(number, self._room[name]) for name, number in entries.items()},
            flows,
            {
                (known(address), protocol): Ports(len(ports), max(towards[address, protocol].values()))
                for (address, protocol), ports in used.items()
            },
        )


async def _size(table: Table) -> int:
    total = 0
    for batch in table.batches(AT_ONCE):
        total += len(batch)
        await asyncio.sleep(0)
    return total
