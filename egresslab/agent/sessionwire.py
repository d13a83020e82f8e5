"""Frames between agents that replicate sessions: a length, a kind, a number, and bytes.

The receiver answers each frame with its number once it has done what the frame says, so that "the standby has it" is
known and not hoped for.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

from egresslab.errors import ClusterError

PORT = 9881
HEADER = struct.Struct("!IBQ")
"""Bytes that follow, kind, number; in network byte order as everything here."""
LARGEST = 1 << 20
LEASE = struct.Struct("!IQ")
VERSION = b"egresslab sessions 1"


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1
    """First of all: `VERSION`, and the sender's node."""
    BEGIN = 2
    """Everything about these leases follows: (lease, epoch) each."""
    RECORDS = 3
    """Flow records to enter."""
    REMOVE = 4
    """Flow records to take out."""
    END = 5
    """That was everything about these leases: what was not named is gone."""
    PING = 6
    ACK = 7
    """From the receiver: the frame with this number is done, and all before it."""


class Frame(NamedTuple):
    """One message."""

    kind: Kind
    number: int
    body: bytes = b""


def pack(frame: Frame) -> bytes:
    """As it is sent."""
    return HEADER.pack(len(frame.body), frame.kind, frame.number) + frame.body


async def read(reader: asyncio.StreamReader) -> Frame:
    """The next one; raises `IncompleteReadError` at the end and `ClusterError` for what is no frame."""
    size, kind, number = HEADER.unpack(await reader.readexactly(HEADER.size))
    if size > LARGEST or kind not in Kind._value2member_map_:
        raise ClusterError("not a frame of session replication", value=f"kind {kind}, {size} bytes")
    return Frame(Kind(kind), number, await reader.readexactly(size))


def pack_leases(epochs: Mapping[int, int]) -> bytes:
    """Lease to epoch, for BEGIN and END."""
    return b"".join(LEASE.pack(lease, epoch) for lease, epoch in sorted(epochs.items()))


def unpack_leases(body: bytes) -> dict[int, int]:
    """Lease to epoch; raises `ClusterError`."""
    if len(body) % LEASE.size:
        raise ClusterError("not a list of leases", value=f"{len(body)} bytes")
    pairs: Iterable[tuple[int, int]] = LEASE.iter_unpack(body)
    return dict(pairs)
