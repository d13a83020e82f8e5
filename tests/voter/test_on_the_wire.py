"""Voters as processes, real maps and programs, real cables: what moves, how long it takes, and what must not move."""

from __future__ import annotations

import asyncio
import signal

import pytest

from .cluster import VIRTUAL, Cluster, memory_mb

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]


async def test_another_takes_over_when_the_holder_crashes(cluster: Cluster) -> None:
    async with cluster.traffic() as traffic:
        for order in (0, 1):
            await cluster.port("a", order, "down")
        await cluster.stop("a", signal.SIGKILL)
        await cluster.settled("b")
        await asyncio.sleep(0.3)
    print(f"crash: {traffic.gap_ms:.0f} ms without an answer, {len(traffic.lost)} datagrams lost")
    assert traffic.lost
    assert traffic.sources == {VIRTUAL}
    report = cluster.report("source")
    assert report is not None
    moved = report.leases[0].last_failover
    assert moved is not None
    assert (moved.origin, moved.target, moved.cause) == ("a", "b", "lost")
    print({name: round(memory_mb(process), 1) for name, process in cluster.processes.items()})


async def test_a_holder_that_is_cut_off_has_fallen_silent_before_another_answers(cluster: Cluster) -> None:
    """Only the network between the nodes is cut: its public side works on, and so do its agent and voter."""
    async with cluster.asking() as answers:
        await cluster.until(lambda: len(answers.macs) > 20, "the address is answered for")
        await cluster.isolate("a")
        await cluster.until(lambda: cluster.held_by() == ["b"], "b holds the lease")
        await asyncio.sleep(0.2)
    a, b = cluster.mac("a"), cluster.mac("b")
    assert set(answers.macs) == {a, b}
    assert answers.macs == sorted(answers.macs, key=lambda mac: mac == b), "answers of both, by turns"
    print(f"cut off: {answers.gap_ms:.0f} ms without an answer for the address")


async def test_a_cut_between_two_nodes_moves_nothing(cluster: Cluster) -> None:
    epoch = cluster.epoch("a")
    async with cluster.traffic() as traffic:
        for other in ("b", "c"):
            await cluster.cut("a", other)
            await cluster.until(lambda other=other: not cluster.sees(other, "a"), f"{other} misses a")  # type: ignore[misc]
            await asyncio.sleep(0.4)
        await cluster.forbid()
        await cluster.until(lambda: cluster.sees("c", "a"), "c hears a again")
    assert cluster.held_by() == ["a"]
    assert cluster.epoch("a") == epoch
    assert traffic.unanswered == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_voter_that_dies_on_the_holder_moves_and_drops_nothing(cluster: Cluster, how: signal.Signals) -> None:
    epoch = cluster.epoch("a")
    async with cluster.traffic() as traffic:
        await cluster.stop("a", how)
        await asyncio.sleep(1.2)
        assert cluster.held_by() == ["a"]
        await cluster.start("a")
        await cluster.until(lambda: cluster.votes_for("a", "a"), "a votes again")
        await asyncio.sleep(0.3)
    assert cluster.held_by() == ["a"]
    assert cluster.epoch("a") == epoch
    assert traffic.unanswered == []


async def test_maintenance_loses_nothing_on_its_way_out(cluster: Cluster) -> None:
    """An answer that is on its way to the old holder when neighbours follow the new one needs the flow's record there,
    which is another part's duty."""
    async with cluster.traffic() as traffic:
        cluster.unfit("a")
        await cluster.settled("b")
        await asyncio.sleep(0.3)
    print(f"planned: {traffic.gap_ms:.0f} ms between answered datagrams, {len(traffic.lost)} lost")
    assert traffic.lost == []
    assert traffic.sources == {VIRTUAL}


async def test_a_holder_without_its_public_link_hands_over_at_once(cluster: Cluster) -> None:
    async with cluster.traffic() as traffic:
        await cluster.port("a", 1, "down")
        await cluster.settled("b")
        await asyncio.sleep(0.2)
    print(f"public link: {traffic.gap_ms:.0f} ms without an answer")
    report = cluster.report("a")
    assert report is not None
    assert report.down == ("eth1",)
    last = report.leases[0].last_failover
    assert last is not None and last.cause == "link"


async def test_a_stranger_with_the_address_is_reported_and_not_fought_by_a_standby(cluster: Cluster) -> None:
    async with cluster.stranger():
        await cluster.until(lambda: bool(cluster.conflicts("c")), "the standby notices")
        await cluster.until(lambda: cluster.silent("c"), "the standby would stay silent")
        assert not cluster.silent("a"), "who answers already goes on"
    await cluster.until(lambda: not cluster.silent("c"), "the stranger is gone")


async def test_neighbours_learn_both_addresses_from_the_new_holder(cluster: Cluster) -> None:
    await cluster.learnt_outside("a")
    cluster.unfit("a")
    await cluster.settled("b")
    await cluster.learnt_outside("b")


async def test_a_voter_is_small(cluster: Cluster) -> None:
    assert max(memory_mb(process) for process in cluster.processes.values()) < 30


async def test_the_status_is_a_table(cluster: Cluster) -> None:
    text = await cluster.status("a")
    assert "egresslab/main" in text
    assert "held" in text
