"""What voting decides, as the programs see it: who holds a lease, whose grants count, which addresses are announced.

The voter is a process of its own beside the agent: `LeaseMaps.open` opens pinned maps and never loads, replaces or
attaches anything. Grants are counted by the programs alone; nothing here writes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from egresslab.datapath.addresses import from_narrow, known, narrow, wide
from egresslab.datapath.frames import build
from egresslab.datapath.layout import ANNOUNCED, ANNOUNCED_KEY, GRANT, HOLDER, LEASE, VOTERS_VALUE
from egresslab.datapath.libbpf import BPF_F_LOCK, BPF_NOEXIST, Libbpf, get_pinned, map_info
from egresslab.datapath.probe import PORT, SIZE, Answer, Request, pack_request, unpack_answer
from egresslab.datapath.table import Table, open_table
from egresslab.datapath.trial import run
from egresslab.datapath.values import (
    VOTERS,
    Announced,
    Grant,
    Holder,
    IPAddress,
    Lease,
    Program,
    Protocol,
    Verdict,
    Voters,
)
from egresslab.errors import DatapathError

NAMES = ("holders", "voters", "leases", "announced")
LOCAL = 1
SILENT = 1
ONE = bytes(4)
FNV_OFFSET, FNV_PRIME = 0x811C9DC5, 0x0100_0193
"""FNV-1a, 32 bit (draft-eastlake-fnv)."""


def lease_number(dialect: str, name: str) -> int:
    """The number of a standby group's lease, the same on every node: FNV-1a of `DIALECT/NAME`, 1 instead of 0."""
    number = FNV_OFFSET
    for byte in f"{dialect}/{name}".encode():
        number = (number ^ byte) * FNV_PRIME & 0xFFFF_FFFF
    return number or 1


class LeaseMaps:
    """`holders`, `voters`, `leases` and `announced`. A context manager."""

    def __init__(self, libbpf: Libbpf, pin_dir: Path, tables: Mapping[str, Table], *, owned: bool = False) -> None:
        """Over open tables; closes them only when they are `owned`."""
        self._libbpf = libbpf
        self._pin_dir = pin_dir
        self._tables = tables
        self._owned = owned
        self._holders, self._voters, self._leases, self._announced = (tables[name] for name in NAMES)
        self._program: int | None = None

    @classmethod
    def open(cls, pin_dir: Path) -> Self:
        """The maps pinned below `pin_dir`. Raises DatapathError when one is not there."""
        libbpf = Libbpf()
        tables: dict[str, Table] = {}
        for name in NAMES:
            table = open_table(libbpf, pin_dir, name)
            if table is None:
                for opened in tables.values():
                    os.close(opened.fd)
                raise DatapathError(
                    "this node has no such map", object=str(pin_dir / name), fix="wait until the agent has loaded it"
                )
            tables[name] = table
        return cls(libbpf, pin_dir, tables, owned=True)

    def current(self) -> bool:
        """Whether these are still the pinned maps: an agent of another version may have put others in their place, and
        then what is written here reaches nobody."""
        for table in self._tables.values():
            fd = get_pinned(self._libbpf, self._pin_dir / table.name)
            if fd is None:
                return False
            try:
                if map_info(self._libbpf, fd).id != map_info(self._libbpf, table.fd).id:
                    return False
            finally:
                os.close(fd)
        return True

    def close(self) -> None:
        """What was written stays."""
        if self._program is not None:
            os.close(self._program)
            self._program = None
        if self._owned:
            for table in self._tables.values():
                os.close(table.fd)
            self._owned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def holder(self, lease: int) -> Holder | None:
        raw = self._holders.get(_number(lease))
        return None if raw is None else _decode_holder(raw)

    def holders(self) -> dict[int, Holder]:
        """By lease."""
        return {int.from_bytes(key, "little"): _decode_holder(raw) for key, raw in self._holders.items()}

    def set_holder(self, lease: int, holder: Holder) -> None:
        """Every slot of the lease leads there from the next packet on."""
        flags = LOCAL if holder.local else 0
        self._holders.put(_number(lease), HOLDER.pack(holder.epoch, narrow(holder.endpoint), flags))

    def delete_holder(self, lease: int) -> None:
        """From now on the lease's slots lead nowhere."""
        self._holders.delete(_number(lease))

    def voters(self) -> Voters:
        heartbeat, places, quorum = self._electorate()
        return Voters(tuple(address for address in places if address is not None), quorum, heartbeat)

    def set_voters(self, addresses: Sequence[IPv4Address]) -> None:
        """Whose grants count from now on; a majority of them makes a lease. Who stays keeps its place, and with it its
        grants. Raises DatapathError for more than VOTERS."""
        if len(set(addresses)) > VOTERS:
            raise DatapathError("too many voters", object="voters", value=len(addresses), fix=f"at most {VOTERS}")
        heartbeat, places, _ = self._electorate()
        kept = [address if address in addresses else None for address in places]
        for address in addresses:
            if address not in kept:
                kept[kept.index(None)] = address
        self._put_electorate(heartbeat, kept, len(set(addresses)) // 2 + 1)

    def beat(self, now_ns: int) -> None:
        """This node's voter was alive at `now_ns` (CLOCK_MONOTONIC); answers say so for a second."""
        _, places, quorum = self._electorate()
        self._put_electorate(now_ns, places, quorum)

    def _electorate(self) -> tuple[int, list[IPv4Address | None], int]:
        """Heartbeat, VOTERS places, quorum."""
        raw = self._voters.get(ONE)
        if raw is None:
            return 0, [None] * VOTERS, 1
        heartbeat, places, quorum = VOTERS_VALUE.unpack(raw)
        return heartbeat, [from_narrow(places[start : start + 4]) for start in range(0, len(places), 4)], quorum

    def _put_electorate(self, heartbeat: int, places: Sequence[IPv4Address | None], quorum: int) -> None:
        self._voters.put(ONE, VOTERS_VALUE.pack(heartbeat, b"".join(map(narrow, places)), quorum))

    def make_lease(self, lease: int) -> None:
        """From now on grants of this lease are counted here; nothing happens when they are already."""
        self._leases.put(_number(lease), bytes(LEASE.size), BPF_NOEXIST)

    def delete_lease(self, lease: int) -> None:
        """This node is no candidate any more: it does not hold the lease, whatever is granted."""
        self._leases.delete(_number(lease))

    def lease(self, lease: int) -> Lease | None:
        raw = self._leases.get(_number(lease), BPF_F_LOCK)
        return None if raw is None else _decode_lease(raw)

    def leases(self) -> dict[int, Lease]:
        """By number."""
        return dict(self._every_lease())

    def _every_lease(self) -> Iterator[tuple[int, Lease]]:
        for key in [key for key, _ in self._leases.items()]:
            number = int.from_bytes(key, "little")
            found = self.lease(number)
            if found is not None:
                yield number, found

    def announced(self) -> dict[tuple[IPAddress, int], Announced]:
        """By address and interface index."""
        found = {}
        for key, raw in self._announced.items():
            address, ifindex = ANNOUNCED_KEY.unpack(key)
            lease, flags = ANNOUNCED.unpack(raw)
            found[known(address), ifindex] = Announced(lease, bool(flags & SILENT))
        return found

    def announce(self, address: IPAddress, ifindex: int, value: Announced) -> None:
        """Answer for the address on an interface that `Attachments.attach_wire` knows; also to change `silent`."""
        raw = ANNOUNCED.pack(value.lease, SILENT if value.silent else 0)
        self._announced.put(ANNOUNCED_KEY.pack(wide(address), ifindex), raw)

    def withdraw(self, address: IPAddress, ifindex: int) -> None:
        """Answer no longer; no error when it is not announced."""
        self._announced.delete(ANNOUNCED_KEY.pack(wide(address), ifindex))

    def probe(self, request: Request, *, sender: IPv4Address, target: IPv4Address) -> Answer | None:
        """What this node's own program answers when `sender` asks `target`; grants in it count as from the wire. None
        when the programs do not take it for theirs: `target` is not `NodeConfig.address_v4`. A microsecond or two,
        without a packet on any wire. Raises DatapathError when no program is pinned."""
        if self._program is None:
            path = self._pin_dir / "programs" / Program.FROM_WIRE.name.lower()
            self._program = get_pinned(self._libbpf, path)
            if self._program is None:
                raise DatapathError("this node has no such program", object=str(path), fix="start the agent")
        frame = build(sender, target, Protocol.UDP, PORT, PORT, data=pack_request(request))
        outcome = run(self._libbpf, self._program, Program.FROM_WIRE, frame)
        if outcome.verdict is not Verdict.REDIRECT:
            return None
        return unpack_answer(outcome.frame[-SIZE:])


def _number(lease: int) -> bytes:
    return lease.to_bytes(4, "little")


def _decode_holder(raw: bytes) -> Holder:
    epoch, endpoint, flags = HOLDER.unpack(raw)
    return Holder(from_narrow(endpoint), epoch, bool(flags & LOCAL))


def _decode_lease(raw: bytes) -> Lease:
    _, _, epoch, holds_until, rows = LEASE.unpack(raw)
    grants = {}
    for start in range(0, len(rows), GRANT.size):
        granted, until, voter, _ = GRANT.unpack(rows[start : start + GRANT.size])
        address = from_narrow(voter)
        if address is not None and granted:
            grants[address] = Grant(granted, until)
    return Lease(epoch, holds_until, grants)
