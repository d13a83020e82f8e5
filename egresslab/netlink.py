"""Reading the kernel's tables whole: a dump that was cut short is asked for again, never taken for the truth."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

PATIENCE_S = 5.0
PAUSE_S = 0.005


Table = Callable[..., Awaitable[AsyncIterator[Any]]]
"""What `AsyncIPRoute` has for each table: link, addr, route, neigh."""


def interrupted(error: NetlinkError) -> bool:
    """Whether a dump has to be repeated: the kernel's tables changed meanwhile (NLM_F_DUMP_INTR), or the socket is busy
    with another dump or with what is left of one that was interrupted (EBUSY)."""
    return isinstance(error, NetlinkDumpInterrupted) or error.code == errno.EBUSY


async def dump(table: Table, /, **filters: Any) -> list[Any]:
    """Every message of a dump of which nothing changed while it was made.

    Raises `NetlinkError`, also for a table that did not hold still for five seconds.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_S
    while True:
        try:
            return [message async for message in await table("dump", **filters)]
        except NetlinkError as error:
            if not interrupted(error) or loop.time() > end:
                raise
        await asyncio.sleep(PAUSE_S)
