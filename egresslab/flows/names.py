"""What destinations are called, asked of the DNS that the observer's surroundings use, by address (PTR).

In a cluster that is the cluster's DNS or the node's own. Looking a name up never holds up more than the flow that asks
for it, for a second at most; answers and their absence are remembered for a while, and the memory is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from egresslab.flows.flow import IPAddress

Ask = Callable[[IPAddress], Awaitable[tuple[str, ...]]]

TIMEOUT_S = 1.0
REMEMBERED_S = 60.0
UNANSWERED_S = 5.0
"""A server that did not answer is asked again after so long."""
ROOM = 4_096


class NameServerSilent(Exception):
    """No answer, which says nothing about the address."""


class DestinationNames:
    """Names by address, in the server's order."""

    def __init__(self, ask: Ask | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[IPAddress, tuple[float, tuple[str, ...]]] = {}
        self._pending: dict[IPAddress, asyncio.Task[tuple[str, ...]]] = {}

    async def of(self, address: IPAddress) -> tuple[str, ...]:
        """The address's names, lower case and without a final dot; none when there are none or nobody answers."""
        known = self._known.get(address)
        if known is not None and self._clock() < known[0]:
            return known[1]
        if address not in self._pending:
            task = asyncio.ensure_future(self._look_up(address))
            self._pending[address] = task
            task.add_done_callback(lambda _: self._pending.pop(address, None))
        return await asyncio.shield(self._pending[address])

    async def _look_up(self, address: IPAddress) -> tuple[str, ...]:
        try:
            self._ask = self._ask or resolver()
            found = await self._ask(address)
            names = tuple(dict.fromkeys(name.lower().rstrip(".") for name in found))
            keep_s = REMEMBERED_S
        except NameServerSilent:
            names, keep_s = (), UNANSWERED_S
        while len(self._known) >= ROOM:
            del self._known[next(iter(self._known))]
        self._known[address] = (self._clock() + keep_s, names)
        return names


def resolver() -> Ask:
    """Asks the servers of /etc/resolv.conf; without one nothing has a name. Imported here: most agents that are asked
    have nothing to name, and answer sooner."""
    import dns.asyncresolver
    import dns.exception
    import dns.resolver

    try:
        resolving = dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        return _nobody
    resolving.lifetime = TIMEOUT_S

    async def ask(address: IPAddress) -> tuple[str, ...]:
        try:
            answer = await resolving.resolve_address(str(address))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return ()
        except (dns.exception.DNSException, OSError) as error:
            raise NameServerSilent(str(error)) from error
        return tuple(str(record.target) for record in answer)

    return ask


async def _nobody(_: IPAddress) -> tuple[str, ...]:
    return ()
