"""The queue: no key twice at a time, no change missed, errors retried."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from egresslab.api.connection import Unreachable
from egresslab.cluster.controllers.workqueue import WorkQueue


async def test_a_key_is_never_in_two_hands_and_no_change_is_missed() -> None:
    state = dict.fromkeys("abc", 0)
    handled: dict[str, int] = {}
    busy: Counter[str] = Counter()
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        busy[key] += 1
        assert busy[key] == 1
        seen = state[key]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        handled[key] = seen
        busy[key] -= 1
        if handled == dict.fromkeys("abc", 50):
            done.set()

    queue: WorkQueue[str] = WorkQueue("test", reconcile, parallel=3)
    task = asyncio.create_task(queue.run())
    for number in range(1, 51):
        for key in state:
            state[key] = number
            queue.add(key)
        if number % 3 == 0:
            await asyncio.sleep(0)
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()


async def test_many_additions_before_the_work_begins_cost_one_reconciliation() -> None:
    runs: list[str] = []
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        runs.append(key)
        if key == "b":
            done.set()

    queue: WorkQueue[str] = WorkQueue("test", reconcile, parallel=1)
    for _ in range(10):
        queue.add("a")
    queue.add("b")
    task = asyncio.create_task(queue.run())
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    assert runs == ["a", "b"]


@pytest.mark.parametrize("error", [Unreachable("gone"), KeyError("a defect")])
async def test_what_fails_is_tried_again_and_does_not_stop_the_others(error: Exception) -> None:
    runs: list[str] = []
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        runs.append(key)
        if key == "bad" and runs.count("bad") < 3:
            raise error
        if runs.count("bad") == 3 and "good" in runs:
            done.set()

    queue: WorkQueue[str] = WorkQueue("test", reconcile, parallel=1)
    queue.add("bad")
    queue.add("good")
    task = asyncio.create_task(queue.run())
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    assert runs == ["bad", "good", "bad", "bad"]


async def test_of_several_delays_the_earliest_counts() -> None:
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        done.set()

    queue: WorkQueue[str] = WorkQueue("test", reconcile)
    task = asyncio.create_task(queue.run())
    queue.add_after("a", 3600)
    queue.add_after("a", 0.01)
    queue.add_after("a", 1800)
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
