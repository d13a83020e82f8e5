"""Observing one agent and many: the past chosen and named beside the agent, gaps kept, nodes merged, nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from egresslab.errors import ClusterError
from egresslab.flows.agents import merged
from egresslab.flows.agentside import Observer
from egresslab.flows.filters import Filter
from egresslab.flows.flow import SECOND, Flow, IPAddress, Lost, Told, as_json
from egresslab.flows.names import UNANSWERED_S, DestinationNames, NameServerSilent
from egresslab.flows.relay import SAME_NS, Recent
from tests.observe.test_choosing import DROPPED, FLOW

NAMES = {ip_address("203.0.113.10"): ("Ifconfig.me.", "ipv4.ifconfig.me.")}


async def ask(address: IPAddress) -> tuple[str, ...]:
    return NAMES.get(address, ())


def told(number: int, flow: Flow = FLOW, lost: int = 0) -> bytes:
    body = as_json(replace(flow, time_ns=number * SECOND, names=()))
    del body["destination"]["names"]
    return json.dumps(body | {"lost": lost}).encode() + b"\n"


@asynccontextmanager
async def agent(
    socket: Path, past: bytes, to_come: Callable[[], AsyncIterator[bytes]] | None = None
) -> AsyncIterator[None]:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(past)
        if request.query.get("follow") == "true" and to_come is not None:
            await response.write(b"\n")
            async for chunk in to_come():
                await response.write(chunk)
        return response

    application = web.Application()
    application.router.add_get("/flows", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    yield
    await runner.cleanup()


async def test_the_last_wanted_events_of_one_agent(tmp_path: Path) -> None:
    past = told(1) + told(2, DROPPED) + told(3) + told(4, DROPPED, lost=9) + told(5)
    async with agent(tmp_path / "s", past):
        forwarded = Observer(tmp_path / "s", Filter(verdicts=("FORWARDED",)), DestinationNames(ask))
        seen = await forwarded.past(2)
        assert [each.time_ns // SECOND for each in seen] == [3, 4, 5]
        assert seen[1] == Lost(4 * SECOND, DROPPED.node, 9), "a gap is told though its event is not wanted"
        assert isinstance(seen[0], Flow) and seen[0].names == ("ifconfig.me", "ipv4.ifconfig.me")
        elsewhere = Observer(tmp_path / "s", Filter(nodes=("nobody",)), DestinationNames(ask))
        assert await elsewhere.past(None) == [], "another node's gap is nobody's business"
        named = Observer(tmp_path / "s", Filter(fqdns=("*.me",)), DestinationNames(ask))
        assert len([each for each in await named.past(None) if isinstance(each, Flow)]) == 5
        assert await Observer(tmp_path / "s", Filter(fqdns=("*.com",)), DestinationNames(ask)).past(1) == [seen[1]]


async def test_following_one_agent_past_first_lines_in_pieces(tmp_path: Path) -> None:
    async def to_come() -> AsyncIterator[bytes]:
        line = told(8)
        yield told(7, DROPPED) + line[:30]
        await asyncio.sleep(0.01)
        yield line[30:]

    async with agent(tmp_path / "s", told(1) + told(2), to_come):
        observer = Observer(tmp_path / "s", Filter(verdicts=("forwarded",)), DestinationNames(ask))
        batches = [[each.time_ns // SECOND for each in batch] async for batch in observer.follow(1)]
        assert batches == [[2], [8]]


async def test_no_agent_is_said(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="the agent does not answer"):
        await Observer(tmp_path / "none", Filter(), DestinationNames(ask)).past(1)


async def test_names_are_remembered_also_when_nobody_answers() -> None:
    asked: list[str] = []
    now = 0.0

    async def silent(address: IPAddress) -> tuple[str, ...]:
        asked.append(str(address))
        await asyncio.sleep(0)
        raise NameServerSilent

    names = DestinationNames(silent, lambda: now)
    address = ip_address("203.0.113.10")
    assert await asyncio.gather(names.of(address), names.of(address)) == [(), ()]
    assert await names.of(address) == () and len(asked) == 1
    now += UNANSWERED_S + 1
    await names.of(address)
    assert len(asked) == 2


NODES = st.lists(st.lists(st.integers(0, 50), max_size=8).map(sorted), max_size=4)


@given(NODES, st.none() | st.integers(0, 12))
def test_nodes_are_merged_by_time_and_cut_from_the_end(nodes: list[list[int]], last: int | None) -> None:
    """Each node's own last N are enough for the last N of all."""
    everything: list[Told] = [
        replace(FLOW, node=f"n{number}", time_ns=time) for number, times in enumerate(nodes) for time in times
    ]
    cut = [
        flow
        for number, _ in enumerate(nodes)
        for flow in _tail([f for f in everything if f.node == f"n{number}"], last)
    ]
    expected = sorted(everything, key=lambda each: each.time_ns)
    shown = merged(cut, last)
    assert [each.time_ns for each in shown] == [each.time_ns for each in _tail(expected, last)]


def _tail(flows: list[Told], last: int | None) -> list[Told]:
    return flows if last is None else flows[len(flows) - last :] if last < len(flows) else flows


def test_gaps_do_not_count_as_events() -> None:
    first, second, third = (replace(FLOW, time_ns=time) for time in (1, 2, 4))
    gap = Lost(3, "n2", 6)
    assert merged([third, gap, first, second], 2) == [second, gap, third]
    assert merged([third, gap], 9) == [gap, third]


def test_what_is_told_again_after_a_break_is_not_said_twice() -> None:
    recent = Recent()
    first, second = replace(FLOW, time_ns=5 * SECOND), replace(DROPPED, time_ns=5 * SECOND + 10)
    assert recent.fresh(first) and recent.fresh(second)
    assert recent.fresh(first), "the same packet again within a moment is another event"
    recent.resume()
    # Another clock reading shifts all times a little.
    assert not recent.fresh(replace(first, time_ns=first.time_ns + SAME_NS // 2))
    assert not recent.fresh(second) and not recent.fresh(first)
    assert recent.fresh(first), "each was told once, so this is another one"
    assert recent.fresh(replace(second, source=replace(second.source, port=1)))
