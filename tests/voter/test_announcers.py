"""Voters without our programs: the address is on one interface at a time, whatever becomes of the process that put it
there."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from egresslab.datapath.testing import Rig
from egresslab.netlink import dump
from egresslab.voter.files import Cause, Pace
from egresslab.voter.userland import LEAST_DURATION_MS
from tests.voter.cluster import VIRTUAL, VIRTUAL_V6, VOTERS, Cluster

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

PACE = Pace(interval_ms=200, failures=LEAST_DURATION_MS // 200 - 1)
SOON_S = 30.0


class Announcers(Cluster):
    """The same nodes; whose kernel has the address on an interface is what counts."""

    def __init__(self, rig: Rig, directory: Path) -> None:
        super().__init__(rig, directory)
        self.group = replace(self.group, pace=PACE)
        self.crowded: list[set[str]] = []
        self.carriers: set[str] = set()

    async def start(self, *names: str) -> None:
        for name in names or self.rig.nodes:
            node = self.rig.nodes[name]
            self.started[name] = time.time()
            with (self.directory / f"{name}.log").open("ab") as log:
                command = ["nsenter", f"--net=/run/netns/{node.namespace}", sys.executable, "-m", "egresslab.voter"]
                self.processes[name] = await asyncio.create_subprocess_exec(
                    *command, "--announcer", "--run-dir", str(self.directory / name), stderr=log
                )

    async def carrying(self) -> dict[str, set[str]]:
        """Node to those of the virtual addresses that are on its interface."""
        found = {}
        for name in VOTERS:
            node = self.rig.nodes[name]
            on_link = {item.get("address") for item in await dump(node.netlink.addr, index=node.links["eth1"])}
            found[name] = on_link & {str(VIRTUAL), str(VIRTUAL_V6)}
        return found

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look without a pause who carries the addresses."""

        async def look() -> None:
            while True:
                # Two looks: what moves between the first node's turn and the last one's is not two at once.
                first, second = await self.carrying(), await self.carrying()
                self.carriers = {name for name, found in first.items() if found}
                for address in (str(VIRTUAL), str(VIRTUAL_V6)):
                    both = {name for name in VOTERS if address in first[name] and address in second[name]}
                    if len(both) > 1:
                        self.crowded.append(both)
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def carried_by(self, name: str | None) -> float:
        """Wait until that node alone (None: nobody) carries them and its voter says so; how long, in seconds."""
        began = time.monotonic()
        while not (self.carriers == ({name} if name else set()) and (name is None or self.says(name))):
            assert time.monotonic() - began < SOON_S, f"{name} should carry, {self.carriers} do"
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    def says(self, name: str) -> bool:
        report = self.report(name)
        return report is not None and any(lease.held and not lease.silent for lease in report.leases)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Announcers]:
    async with Rig("a", "b", "c", "source") as rig:
        made = Announcers(rig, Path(tmp_path_factory.mktemp("announcers")))
        await made.learn_macs()
        made.configure()
        await made.start()
        try:
            async with made.watched():
                yield made
        finally:
            for process in made.processes.values():
                process.send_signal(signal.SIGCONT)
            await made.stop_all()


@pytest_asyncio.fixture(loop_scope="session")
async def announcers(running: Announcers) -> AsyncIterator[Announcers]:
    """`a` carries the addresses; at no time did two nodes."""
    running.unfit("b", "c")
    await running.carried_by("a")
    running.unfit()
    yield running
    assert not running.crowded


async def test_one_that_is_stopped_carries_nothing_before_another_does_nor_when_it_goes_on(
    announcers: Announcers,
) -> None:
    stopped = announcers.processes["a"]
    stopped.send_signal(signal.SIGSTOP)
    await announcers.until(lambda: "a" not in announcers.carriers, "a carries nothing, by the kernel's clock alone")
    await announcers.carried_by("b")
    stopped.send_signal(signal.SIGCONT)
    await asyncio.sleep(1.0)  # long enough to do harm
    assert announcers.carriers == {"b"}
    await announcers.learnt_outside("b")


async def test_one_that_is_killed_leaves_nothing_behind(announcers: Announcers) -> None:
    await announcers.stop("a", signal.SIGKILL)
    await announcers.carried_by("b")
    await announcers.start("a")
    await asyncio.sleep(0)
    assert announcers.carriers == {"b"}


async def test_one_that_is_cut_off_takes_the_addresses_off_before_another_has_them(announcers: Announcers) -> None:
    await announcers.isolate("a")
    try:
        await announcers.carried_by("b")
    finally:
        await announcers.forbid()


async def test_in_a_planned_move_the_addresses_are_gone_before_they_come(announcers: Announcers) -> None:
    announcers.unfit("a")
    await announcers.carried_by("b")
    report = announcers.report("b")
    last = report.leases[0].last_failover if report is not None else None
    assert last is not None and (last.origin, last.cause) == ("a", Cause.UNFIT)
    assert last.outage_ms is not None and last.outage_ms < LEAST_DURATION_MS, "nobody waited for grants to end"


async def test_an_address_by_other_hands_is_left_to_them(announcers: Announcers) -> None:
    """Somebody put one of them on the standby's interface for good."""
    node = announcers.rig.nodes["b"]
    await node.netlink.addr("add", index=node.links["eth1"], address=str(VIRTUAL), prefixlen=32)
    try:
        announcers.unfit("a", "c")
        await announcers.carried_by("b")
        announcers.unfit("b", "c")
        await announcers.until(lambda: announcers.says("a"), "a carries them")
        assert (await announcers.carrying())["b"] == {str(VIRTUAL)}
    finally:
        await node.netlink.addr("del", index=node.links["eth1"], address=str(VIRTUAL), prefixlen=32)
        announcers.crowded.clear()
