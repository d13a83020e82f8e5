"""One agent's events, from its unix socket, chosen and named: what an observer in the agent's container does.

The choice is made here, beside the agent and at the observer's expense, so that what is not wanted does not travel and
the agent does no more for ten observers than it must.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

from egresslab.errors import ClusterError
from egresslab.flows.filters import Filter
from egresslab.flows.flow import Flow, IPAddress, Lost, Told, parse
from egresslab.flows.names import DestinationNames

SOCKET = Path("/run/egresslab-agent/flows.sock")
ANSWER_S = 5.0
CHUNK_BYTES = 256 * 1024
AT_ONCE = 64
"""Names that are asked for at the same time."""


class Observer:
    """Reads one agent. `wanted` chooses, `names` tells what destinations are called."""

    def __init__(self, socket: Path, wanted: Filter, names: DestinationNames) -> None:
        self._socket = socket
        self._wanted = wanted
        self._names = names
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def past(self, last: int | None) -> list[Told]:
        """The last so many wanted events that the agent kept (None: all), oldest first, gaps among them.

        Raises `ClusterError` when the agent does not answer.
        """
        kept: list[Told] = []
        async for lines in self._read(follow=False):
            kept += _told(lines)
        return await self._chosen_last(kept, last)

    async def follow(self, last: int | None = 0) -> AsyncIterator[list[Told]]:
        """First the past, perhaps empty, then what comes, some at a time, until the agent ends. Errors as `past`."""
        kept: list[Told] | None = []
        async for lines in self._read(follow=True):
            if kept is not None:
                before, mark, lines = _split(lines)
                kept += _told(before)
                if not mark:
                    continue
                yield await self._chosen_last(kept, last)
                kept = None
            chosen = await self._chosen(_told(lines))
            if chosen:
                yield chosen

    async def _read(self, *, follow: bool) -> AsyncIterator[list[bytes]]:
        """Whole lines, as many as have come; with `follow`, an empty one separates the past from what comes."""
        rest = b""
        reader, writer = await self._ask("?follow=true&last=999999999" if follow else "")
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield lines
        except OSError as error:
            raise self._silent(error) from error
        finally:
            writer.close()

    async def _ask(self, query: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The body of the answer, which ends with the connection: HTTP/1.0 (RFC 1945), spoken here in three lines since
        this runs on every node for each look, and importing a client for it takes longer than all the rest."""
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
                writer.write(f"GET /flows{query} HTTP/1.0\r\nHost: agent\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            raise self._silent(error) from error
        status = head.split(b"\r\n", 1)[0].decode()
        if status.split()[1:2] != ["200"]:
            writer.close()
            raise self._silent(status)
        return reader, writer

    def _silent(self, why: object) -> ClusterError:
        return ClusterError(
            f"the agent does not answer: {why}",
            object=str(self._socket),
            fix="kubectl -n kube-system get pods -l app.kubernetes.io/name=egresslab-agent",
        )

    async def _chosen_last(self, told: list[Told], last: int | None) -> list[Told]:
        chosen = await self._chosen(told) if self._wanted.needs_names else self._but_names(told)
        if last is not None:
            flows = [index for index, each in enumerate(chosen) if isinstance(each, Flow)]
            chosen = chosen[flows[-last] :] if 0 < last <= len(flows) else chosen if last else []
        return chosen if self._wanted.needs_names else await self._named(chosen)

    async def _chosen(self, told: Iterable[Told]) -> list[Told]:
        named = await self._named(self._but_names(told))
        return [each for each in named if isinstance(each, Lost) or self._wanted.matches_names(each)]

    def _but_names(self, told: Iterable[Told]) -> list[Told]:
        wanted = self._wanted
        return [
            each
            for each in told
            if (wanted.wants_node(each.node) if isinstance(each, Lost) else wanted.matches_but_names(each))
        ]

    async def _named(self, told: list[Told]) -> list[Told]:
        addresses = {each.destination.ip for each in told if isinstance(each, Flow)}
        found = dict(zip(addresses, await asyncio.gather(*map(self._name, addresses)), strict=True))
        return [replace(each, names=found[each.destination.ip]) if isinstance(each, Flow) else each for each in told]

    async def _name(self, address: IPAddress) -> tuple[str, ...]:
        async with self._turns:
            return await self._names.of(address)


def _told(lines: Iterable[bytes]) -> list[Told]:
    return [told for line in lines if line for told in parse(line)]


def _split(lines: list[bytes]) -> tuple[list[bytes], bool, list[bytes]]:
    """What stands before the first empty line, whether there is one, and what comes after it."""
    if b"" not in lines:
        return lines, False, []
    at = lines.index(b"")
    return lines[:at], True, lines[at + 1 :]
