"""The gate answers the kubelet when a pod may run, and says why when it may not yet."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from egresslab.agent.gate import PLUGIN_FILE, Sandbox, install_plugin, serve_gate
from egresslab.errors import DatapathError

SANDBOX = {
    "namespace": "demo",
    "name": "client",
    "uid": "0a0b0c0d-1111",
    "ips": ["10.244.1.5", "fd00:10:244:1::5"],
    "netns": "/run/netns/x",
    "host_interface": "veth0a0b0c0d",
    "labels": {},
}


async def nothing(sandbox: Sandbox) -> None:
    """A handler that lets everything through."""


async def post(socket: Path, path: str, body: object) -> tuple[int, dict[str, str]]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.post(f"http://agent{path}", json=body) as answer,
    ):
        return answer.status, await answer.json()


async def test_add_is_answered_only_when_the_pod_is_programmed(tmp_path: Path) -> None:
    programmed = asyncio.Event()
    asked: asyncio.Queue[Sandbox] = asyncio.Queue()

    async def on_add(sandbox: Sandbox) -> None:
        asked.put_nowait(sandbox)
        await programmed.wait()

    socket = tmp_path / "run" / "cni.sock"
    async with serve_gate(socket, on_add, nothing):
        request = asyncio.create_task(post(socket, "/cni/add", SANDBOX))
        sandbox = await asked.get()
        assert not request.done()
        programmed.set()
        assert await request == (200, {})
    assert [str(address) for address in sandbox.addresses] == SANDBOX["ips"]
    assert not socket.exists()


async def test_a_pod_that_cannot_be_programmed_is_told_why(tmp_path: Path) -> None:
    async def on_add(sandbox: Sandbox) -> None:
        raise DatapathError("the map is full", object="egress_policy_v4", fix="raise its size")

    socket = tmp_path / "cni.sock"
    async with serve_gate(socket, on_add, nothing):
        status, answer = await post(socket, "/cni/add", SANDBOX)
    assert status == 503
    assert "the map is full" in answer["message"]


@pytest.mark.parametrize("body", [{}, [], None, SANDBOX | {"ips": ["nowhere"]}, SANDBOX | {"ips": 3}])
async def test_what_is_not_a_sandbox_is_refused(tmp_path: Path, body: object) -> None:
    socket = tmp_path / "cni.sock"
    async with serve_gate(socket, nothing, nothing):
        status, _ = await post(socket, "/cni/add", body)
    assert status == 400


async def test_a_socket_left_by_a_killed_agent_is_taken_over(tmp_path: Path) -> None:
    socket = tmp_path / "cni.sock"
    socket.touch()
    async with serve_gate(socket, nothing, nothing):
        assert (await post(socket, "/cni/del", SANDBOX))[0] == 200


async def test_an_agent_that_ends_does_not_wait_for_who_waits(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def on_add(sandbox: Sandbox) -> None:
        asked.set()
        await asyncio.get_running_loop().create_future()

    socket = tmp_path / "cni.sock"
    async with asyncio.timeout(30):
        async with serve_gate(socket, on_add, nothing):
            request = asyncio.create_task(post(socket, "/cni/add", SANDBOX))
            await asked.wait()
        with pytest.raises(aiohttp.ClientError):
            await request


def test_the_plugin_file_is_written_once(tmp_path: Path) -> None:
    install_plugin(tmp_path / "net.d", Path("/run/egresslab-agent/cni.sock"))
    written = tmp_path / "net.d" / PLUGIN_FILE
    assert json.loads(written.read_text())["path"] == "/run/egresslab-agent/cni.sock"
    before = written.stat().st_mtime_ns
    install_plugin(tmp_path / "net.d", Path("/run/egresslab-agent/cni.sock"))
    assert written.stat().st_mtime_ns == before
