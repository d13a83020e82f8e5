"""Dumps come whole, once, or not at all: what the kernel cut short is asked for again from the beginning."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from pyroute2 import AsyncIPRoute, netns
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from egresslab.netlink import dump

Fault = Callable[[], NetlinkError]

CUT_SHORT: list[Fault] = [NetlinkDumpInterrupted, lambda: NetlinkError(errno.EBUSY, "busy")]
LINKS, READERS, ROUNDS = 40, 4, 10
DEADLINE_S = 60.0


class Table:
    """Three messages; each of `faults` ends one dump, after as many of them."""

    def __init__(self, faults: list[tuple[int | None, Fault]]) -> None:
        self.faults = faults
        self.asked: list[object] = []

    async def __call__(self, command: str, **filters: object) -> AsyncIterator[str]:
        self.asked.append((command, filters))
        at, fault = self.faults.pop(0) if self.faults else (-1, NetlinkDumpInterrupted)
        if at is None:
            raise fault()

        async def messages() -> AsyncIterator[str]:
            for number, message in enumerate(("one", "two", "three")):
                if number == at:
                    raise fault()
                yield message
            if at == 3:
                raise fault()

        return messages()


@pytest.mark.parametrize("fault", CUT_SHORT, ids=["interrupted", "busy"])
@pytest.mark.parametrize("at", [None, 0, 1, 3], ids=["when asked", "at once", "midway", "at the end"])
async def test_a_dump_that_was_cut_short_is_begun_anew(at: int | None, fault: Fault) -> None:
    table = Table([(at, fault), (at, fault)])
    assert await dump(table, family=2) == ["one", "two", "three"]
    assert table.asked == [("dump", {"family": 2})] * 3


@pytest.mark.parametrize("at", [None, 1])
async def test_any_other_error_is_passed_on_at_once(at: int | None) -> None:
    table = Table([(at, lambda: NetlinkError(errno.EPERM, "no"))])
    with pytest.raises(NetlinkError) as raised:
        await dump(table)
    assert raised.value.code == errno.EPERM
    assert len(table.asked) == 1


async def test_a_table_that_never_holds_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egresslab.netlink.PATIENCE_S", 0.02)
    with pytest.raises(NetlinkDumpInterrupted):
        await dump(Table([(1, NetlinkDumpInterrupted)] * 1000))


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"dumps-{secrets.token_hex(4)}"
    netns.create(name)
    yield name
    netns.remove(name)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_many_dumps_at_a_time_while_links_come_and_go(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egresslab.netlink.PATIENCE_S", DEADLINE_S)
    steady = {f"steady{number}" for number in range(LINKS)}
    read_whole = asyncio.Event()

    async with AsyncIPRoute(netns=namespace) as netlink, AsyncIPRoute(netns=namespace) as changing:
        for name in steady:
            await changing.link("add", ifname=name, kind="bridge")

        async def change() -> None:
            for number in itertools.count():
                await changing.link("add", ifname=f"passing{number}", kind="bridge")
                (link,) = await dump(changing.link, ifname=f"passing{number}")
                await changing.link("del", index=link["index"])
                # Some dump must be able to end, however slow the machine.
                read_whole.clear()
                await read_whole.wait()

        async def read() -> None:
            for _ in range(ROUNDS):
                names = Counter(link.get("ifname") for link in await dump(netlink.link))
                read_whole.set()
                assert set(names.values()) == {1}
                assert steady <= names.keys()

        changer = asyncio.create_task(change())
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*[read() for _ in range(READERS)])
        assert not changer.done(), "links came and went to the end"
        changer.cancel()
        await asyncio.gather(changer, return_exceptions=True)
