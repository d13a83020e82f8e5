"""All agents of a cluster at once, reached as anybody reaches them: exec through the Kubernetes API, merged by time.

An agent that goes away while it is followed is asked again until it is back; what was told twice is said once.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Self

from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.resources import PODS
from egresslab.errors import ClusterError
from egresslab.flows.agents import CONTAINER, NAMESPACE, SELECTOR, command, merged, nobody, running
from egresslab.flows.execs import output_lines
from egresslab.flows.filters import Filter
from egresslab.flows.flow import Told, parse

PATIENCE_S = 15.0
"""How long one agent may take for its past, and all of them to begin, before the others are shown without it."""
REORDER_S = 0.2
"""How long an event waits for older ones of other nodes."""
DISCOVERY_S = 5.0
RETRY_S = 0.3
SAME_NS = 2_000_000
"""A new agent computes the wall clock anew, so the same event may differ by a little."""

Complain = Callable[[str], None]


async def agents(api: Api, wanted: Filter) -> dict[str, str]:
    """The agent's pod on each wanted node that has a running one; raises `ApiError` or `Unreachable`."""
    pods, _ = await api.list(PODS, NAMESPACE, label_selector=SELECTOR)
    return running(pods, wanted)


async def past(api: Api, wanted: Filter, last: int | None, complain: Complain) -> Sequence[Told]:
    """What all agents kept, merged; `complain` hears of an agent that could not be asked.

    Raises `ClusterError` when none could.
    """
    asked = await agents(api, wanted)
    if not asked:
        raise nobody(wanted)

    async def ask(node: str, pod: str) -> list[Told] | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                lines = output_lines(api, NAMESPACE, pod, CONTAINER, command(wanted, last=last, follow=False))
                return [told async for line in lines for told in parse(line)]
        except TimeoutError:
            complain(f"{node}: no answer within {PATIENCE_S:g} s")
        except ClusterError as error:
            complain(f"{node}: {error}")
        return None

    answers = await asyncio.gather(*(ask(node, pod) for node, pod in asked.items()))
    if all(answer is None for answer in answers):
        raise ClusterError("no agent could be asked", object=NAMESPACE, fix=f"kubectl -n {NAMESPACE} get pods")
    return merged((told for answer in answers for told in answer or ()), last)


class Following:
    """Events of all agents from now on, and the `last` before: an asynchronous iterator while the context is open."""

    def __init__(self, api: Api, wanted: Filter, last: int | None, complain: Complain) -> None:
        self._api, self._wanted, self._last, self._complain = api, wanted, last, complain
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._discovery: asyncio.Task[None] | None = None
        self._begun: set[str] = set()
        self._early: list[Told] = []
        self._waiting: list[tuple[int, int, float, Told]] = []
        self._order = count()
        self._arrived = asyncio.Event()
        self.current = asyncio.Event()
        """Set once every agent is listened to, or did not begin in time."""

    async def __aenter__(self) -> Self:
        """Raises `ClusterError` when there is no agent at all, or no way to ask."""
        found = await self._discover()
        if not found:
            raise nobody(self._wanted)
        self._discovery = asyncio.create_task(self._keep_discovering())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._tasks.values(), *([self._discovery] if self._discovery else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[Told | None]:
        """None stands between the past and what comes: from there on nothing is missed."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + PATIENCE_S
        while not self._tasks.keys() <= self._begun and loop.time() < patience:
            self._arrived.clear()
            await _either(self._arrived, patience - loop.time())
        self.current.set()
        for told in merged(self._early, self._last or None):
            yield told
        yield None
        while True:
            while self._waiting and self._waiting[0][2] <= loop.time():
                yield heapq.heappop(self._waiting)[3]
            self._arrived.clear()
            await _either(self._arrived, self._waiting[0][2] - loop.time() if self._waiting else None)

    async def _keep_discovering(self) -> None:
        while True:
            await asyncio.sleep(DISCOVERY_S)
            try:
                await self._discover()
            except (ApiError, Unreachable):
                continue

    async def _discover(self) -> dict[str, str]:
        found = await agents(self._api, self._wanted)
        for node in found.keys() - self._tasks.keys():
            self._tasks[node] = asyncio.create_task(self._follow(node))
        return found

    async def _follow(self, node: str) -> None:
        """One node's agent, again and again; the first time with its past, later with what came since."""
        recent = Recent()
        broken = False
        while True:
            try:
                pod = (await agents(self._api, self._wanted)).get(node)
                if pod is not None:
                    wanted = self._wanted
                    if recent.last_ns:
                        wanted = replace(wanted, since_ns=max(recent.last_ns - SAME_NS, wanted.since_ns or 0))
                    recent.resume()
                    asked = command(wanted, last=None if recent.last_ns else self._last, follow=True)
                    async for line in output_lines(self._api, NAMESPACE, pod, CONTAINER, asked):
                        if broken:
                            self._complain(f"{node}: its agent is back")
                            broken = False
                        self._take(node, line, recent)
            except ClusterError as error:
                if not broken:
                    self._complain(f"{node}: {error}")
            else:
                if not broken:
                    self._complain(f"{node}: its agent went away")
            broken = True
            await asyncio.sleep(RETRY_S)

    def _take(self, node: str, line: bytes, recent: Recent) -> None:
        if not line:
            self._begun.add(node)
        due = asyncio.get_running_loop().time() + REORDER_S
        for told in parse(line) if line else ():
            if not recent.fresh(told):
                continue
            if self.current.is_set():
                heapq.heappush(self._waiting, (told.time_ns, next(self._order), due, told))
            else:
                self._early.append(told)
        self._arrived.set()


class Recent:
    """What one node told lately, so that it is not said twice after a connection broke."""

    def __init__(self) -> None:
        self.last_ns = 0
        self._kept: deque[Told] = deque(maxlen=256)
        self._known: list[Told] = []

    def resume(self) -> None:
        """The connection is new: what was told last may come again, each once."""
        self._known = list(self._kept)

    def fresh(self, told: Told) -> bool:
        """Whether this was not told before; it is from now on."""
        if self._known:
            again = next((known for known in self._known if _same(told, known)), None)
            if again is not None:
                self._known.remove(again)
                return False
            if told.time_ns > self.last_ns + SAME_NS:
                self._known = []
        self._kept.append(told)
        self.last_ns = max(self.last_ns, told.time_ns)
        return True


def _same(one: Told, other: Told) -> bool:
    return abs(one.time_ns - other.time_ns) < SAME_NS and replace(one, time_ns=0) == replace(other, time_ns=0)


async def _either(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait for the event, but no longer than so many seconds (None: as long as it takes)."""
    try:
        async with asyncio.timeout(timeout_s if timeout_s is None else max(timeout_s, 0)):
            await event.wait()
    except TimeoutError:
        return
