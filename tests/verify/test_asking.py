"""Agents are asked a few at a time, with a deadline, and silence is an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest

from egresslab.api.connection import Api
from egresslab.cli import kernels
from egresslab.cli.kernels import CILIUMS, OURS, Agents, ask_nodes
from egresslab.errors import ClusterError

NODES = [f"n{number}" for number in range(40)]
Exec = Callable[[str, Sequence[str]], AsyncIterator[bytes]]


def answering(monkeypatch: pytest.MonkeyPatch, answer: Exec) -> None:
    def output_lines(
        api: Any, namespace: str, pod: str, container: str, command: Sequence[str]
    ) -> AsyncIterator[bytes]:
        return answer(pod, command)

    monkeypatch.setattr(kernels, "output_lines", output_lines)


async def ask(agents: Agents = OURS, *, nodes: Sequence[str] = NODES, **options: Any) -> dict[str, kernels.Answer]:
    pods = {node: f"agent-{node}" for node in nodes if node != "empty"}
    settings = {"together": 4, "timeout_s": 5.0} | options
    return await ask_nodes(cast(Api, None), agents, pods, nodes, **settings)


async def test_never_more_at_a_time_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = 0, 0
    told: list[kernels.Answer] = []

    async def answer(pod: str, command: Sequence[str]) -> AsyncIterator[bytes]:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        yield b"[]"
        now -= 1

    answering(monkeypatch, answer)
    found = await ask(answered=told.append)
    assert most == 4
    assert sorted(found) == sorted(NODES) == sorted(each.node for each in told)


async def test_a_node_that_does_not_answer_is_told_and_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(pod: str, command: Sequence[str]) -> AsyncIterator[bytes]:
        if pod == "agent-n1":
            await asyncio.get_running_loop().create_future()
        if pod == "agent-n2":
            raise ClusterError("exec was refused: 403", object=pod)
        yield b"[]"

    answering(monkeypatch, answer)
    found = await ask(nodes=["n0", "n1", "n2", "empty"], timeout_s=0.2)
    assert found["n0"].text == "[]"
    assert (found["n1"].text, found["n2"].text, found["empty"].text) == (None, None, None)
    assert "did not answer within" in found["n1"].error
    assert "403" in found["n2"].error
    assert found["empty"].error == "no agent runs there"


async def test_older_ciliums_are_asked_by_the_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(pod: str, command: Sequence[str]) -> AsyncIterator[bytes]:
        if command[0] == "cilium-dbg":
            raise ClusterError('exec: "cilium-dbg": executable file not found in $PATH', object=pod)
        if command[0] == "cilium":
            raise ClusterError("No entries found.", object=pod)
        yield b"what was asked is not this"

    answering(monkeypatch, answer)
    assert (await ask(CILIUMS, nodes=["n0"]))["n0"].text == ""
