"""exec and logs, through the server to a kubelet: here a stand-in that says what it was asked and echoes."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import kubernetes
import pytest
from aiohttp import WSMsgType, web
from kubernetes.stream import stream

from egresslab.cluster.testing import RunningServer, certificates, running_server
from tests.cluster.apiserver.conftest import connect, pod, run_kubectl

TOKEN = web.AppKey("token", list[str])
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


async def _exec(request: web.Request) -> web.StreamResponse:
    if request.headers["Authorization"] != f"Bearer {request.app[TOKEN][0]}":
        return web.Response(status=401)
    socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
    await socket.prepare(request)
    command = request.query.getall("command")
    await socket.send_bytes(bytes([STDOUT]) + f"{request.match_info['container']}: {' '.join(command)}\n".encode())
    await socket.send_bytes(bytes([STDERR]) + b"to stderr\n")
    if request.query.get("stdin"):
        async for message in socket:
            if message.type is not WSMsgType.BINARY or message.data[:1] == bytes([CLOSE]):
                break
            if message.data[0] == RESIZE:
                continue
            await socket.send_bytes(bytes([STDOUT]) + message.data[1:].upper())
            if message.data.endswith(b"end\n"):
                break
    if command[0] == "false":
        details = b'{"causes":[{"reason":"ExitCode","message":"3"}]}'
        status = b'{"status":"Failure","reason":"NonZeroExitCode","message":"exit 3","details":' + details + b"}"
    else:
        status = b'{"metadata":{},"status":"Success"}'
    await socket.send_bytes(bytes([ERROR]) + status)
    await socket.close()
    return socket


async def _log(request: web.Request) -> web.StreamResponse:
    if request.match_info["pod"] == "silent":
        return web.Response(status=400, text="container main is waiting to start")
    return web.Response(text=f"{request.match_info['container']} {request.query_string}\n")


class Kubelet:
    """Runs in a thread of its own, since its clients here are blocking ones."""

    def __init__(self, directory: Path) -> None:
        certificates(directory)
        self.app = web.Application()
        self.app.router.add_get("/exec/{namespace}/{pod}/{container}", _exec)
        self.app.router.add_get("/attach/{namespace}/{pod}/{container}", _exec)
        self.app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", _log)
        self.app[TOKEN] = [""]
        self._trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._trust.load_cert_chain(directory / "apiserver.crt", directory / "apiserver.key")
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.port = 0

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        runner = web.AppRunner(self.app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._trust)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def __enter__(self) -> Kubelet:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose node n1 is the stand-in."""
    directory = tmp_path_factory.mktemp("streams")
    with Kubelet(directory) as kubelet, running_server(directory, kubelet_port=kubelet.port) as server:
        kubelet.app[TOKEN][0] = server.tokens["system:apiserver"]
        core = kubernetes.client.CoreV1Api(connect(server.kubeconfig))
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
        core.create_node({"metadata": {"name": "n1"}, "status": {"addresses": addresses}})
        core.create_node(
            {"metadata": {"name": "n2"}, "status": {"addresses": [{**addresses[0], "address": "127.0.0.2"}]}}
        )
        for name, place in (("a", "n1"), ("silent", "n1"), ("far", "n2")):
            body = pod(name)
            body["spec"]["nodeName"] = place
            core.create_namespaced_pod("default", body)
        two = pod("two")
        two["spec"] |= {"nodeName": "n1", "containers": [{"name": n, "image": "busybox"} for n in ("x", "y")]}
        core.create_namespaced_pod("default", two)
        yield server


def test_exec_brings_both_streams_and_the_exit_code(node: RunningServer) -> None:
    done = run_kubectl(node.kubeconfig, "exec", "a", "--", "echo", "two words")
    assert (done.returncode, done.stdout, done.stderr) == (0, "main: echo two words\n", "to stderr\n")
    failed = run_kubectl(node.kubeconfig, "exec", "a", "--", "false")
    assert failed.returncode == 3


def test_exec_sends_standard_input(node: RunningServer) -> None:
    done = run_kubectl(node.kubeconfig, "exec", "-i", "a", "--", "cat", stdin="hello\nend\n")
    assert "HELLO\nEND\n" in done.stdout


def test_exec_chooses_the_container(node: RunningServer) -> None:
    assert run_kubectl(node.kubeconfig, "exec", "two", "-c", "y", "--", "id").stdout.startswith("y: id")
    missing = run_kubectl(node.kubeconfig, "exec", "two", "-c", "z", "--", "id")
    assert missing.returncode == 1
    assert "z" in missing.stderr


def test_the_python_client_speaks_its_older_protocol(node: RunningServer) -> None:
    core = kubernetes.client.CoreV1Api(connect(node.kubeconfig))
    answer = stream(core.connect_get_namespaced_pod_exec, "a", "default", command=["id"], stdout=True, stderr=False)
    assert answer.startswith("main: id\n")


def test_logs_pass_their_options_on(node: RunningServer) -> None:
    done = run_kubectl(node.kubeconfig, "logs", "a", "--tail=5", "--timestamps", "--previous")
    assert done.stdout.strip() == "main previous=true&tailLines=5&timestamps=true"
    refused = run_kubectl(node.kubeconfig, "logs", "silent")
    assert refused.returncode == 1
    assert "container main is waiting to start" in refused.stderr


@pytest.mark.parametrize("command", [["logs", "far"], ["exec", "far", "--", "id"]])
def test_a_kubelet_that_is_away_is_named(node: RunningServer, command: list[str]) -> None:
    done = run_kubectl(node.kubeconfig, *command)
    assert done.returncode == 1
    assert "error dialing backend" in done.stderr


def test_a_user_without_rights_cannot_exec(node: RunningServer, tmp_path: Path) -> None:
    node.tokens["liar"] = "no-such-token"
    done = run_kubectl(node.kubeconfig_for("liar"), "exec", "a", "--", "id")
    assert done.returncode == 1
    assert "Unauthorized" in done.stderr or "logged in" in done.stderr
