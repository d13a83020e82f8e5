"""The chained plug-in's program and the agent behind it speak CNI: results handed on unchanged, errors that a runtime
understands, and an end of pods that nothing prevents."""

from __future__ import annotations

import asyncio
import json
import platform
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from egresslab.agent.chain import Attachment, Call, ChainError, Code
from egresslab.agent.gate import serve_gate
from egresslab.errors import DatapathError
from tests.agent.test_gate import nothing

SOURCE = Path(__file__).parents[2] / "egresslab" / "agent" / "cni"
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=client;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}],
    "ips": [
        {"address": "10.244.1.5/24", "interface": 1},
        {"address": "fd00:10:244:1::5/64", "interface": 1},
        {"address": "192.168.7.7/24", "interface": 2},
    ],
    "dns": {"nameservers": ["10.96.0.10"]},
}
CONFIG = {"cniVersion": "1.0.0", "name": "net", "type": "egresslab", "prevResult": RESULT}
Answering = Callable[[Call], Awaitable[None]]


def compiled(folder: Path, socket: Path, patience_ms: int, add_ms: int) -> Path:
    """The program for another socket and with another patience."""
    if shutil.which("clang") is None or shutil.which("ld.lld") is None:
        pytest.skip("clang and lld are not installed")
    for name in ("Makefile", "egresslab.c"):
        shutil.copy(SOURCE / name, folder)
    target = f"egresslab-{platform.machine()}"
    defines = f"DEFINES=-DSOCKET='\"{socket}\"' -DPATIENCE_MS={patience_ms} -DADD_MS={add_ms}"
    subprocess.run(["make", "--silent", "-C", str(folder), target, defines], check=True)
    return folder / target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of program and socket."""
    return tmp_path_factory.mktemp("cni")


@pytest.fixture(scope="module")
def socket(folder: Path) -> Path:
    """Where nobody listens unless a test does."""
    return folder / "cni.sock"


@pytest.fixture(scope="module")
def program(folder: Path, socket: Path) -> Path:
    """That asks there, and gives up soon."""
    return compiled(folder, socket, 300, 20_000)


async def run(program: Path, command: str | None, config: Any = CONFIG, args: str = ARGS) -> tuple[int, Any]:
    """As a runtime calls it: exit code, and the JSON that was printed."""
    names = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0", "CNI_ARGS": args, "CNI_PATH": "/p"}
    environment = names | ({"CNI_COMMAND": command} if command is not None else {})
    process = await asyncio.create_subprocess_exec(
        str(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    async with asyncio.timeout(20):
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        out, _ = await process.communicate(text)
    return process.returncode or 0, json.loads(out) if out else None


def answers(call: Answering, socket: Path) -> Any:
    return serve_gate(socket, nothing, nothing, call)


async def test_a_pod_starts_with_the_result_of_the_plugins_before(program: Path, socket: Path) -> None:
    asked: list[Call] = []

    async def on_call(call: Call) -> None:
        asked.append(call)

    async with answers(on_call, socket):
        assert await run(program, "ADD") == (0, RESULT)
        assert await run(program, "DEL") == (0, None)
    addresses = (ip_address("10.244.1.5"), ip_address("fd00:10:244:1::5"))
    assert asked[0].attachment == Attachment("demo", "client", "u1", "c1", addresses)
    assert [call.command for call in asked] == ["ADD", "DEL"]


async def test_a_refusal_is_an_error_of_cni_with_object_and_reason(program: Path, socket: Path) -> None:
    async def on_call(call: Call) -> None:
        raise DatapathError("its link was not found", object="Pod/demo/client", fix='say "please"')

    async with answers(on_call, socket):
        code, said = await run(program, "ADD", {**CONFIG, "cniVersion": "0.4.0"})
        assert await run(program, "DEL") == (0, None), "a pod ends whatever is said"
    assert code == 1
    assert said == {
        "cniVersion": "0.4.0",
        "code": Code.TRY_AGAIN_LATER,
        "msg": "egresslab: Pod/demo/client: its link was not found",
        "details": 'say "please"',
    }


async def test_where_nobody_listens_pods_wait_and_end(program: Path) -> None:
    code, said = await run(program, "ADD")
    assert (code, said["code"], said["cniVersion"]) == (1, Code.TRY_AGAIN_LATER, "1.0.0")
    assert await run(program, "DEL") == (0, None)
    assert await run(program, "DEL", b"not JSON") == (0, None)


@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS"])
async def test_nothing_else_fails_without_an_agent(program: Path, command: str) -> None:
    assert await run(program, command) == (0, None)


async def test_it_tells_its_versions_itself(program: Path) -> None:
    code, said = await run(program, "VERSION", b"")
    assert code == 0 and {"0.3.1", "0.4.0", "1.0.0", "1.1.0"} <= set(said["supportedVersions"])


@pytest.mark.parametrize("command", [None, "", "PANIC"])
async def test_another_command_is_refused(program: Path, command: str | None) -> None:
    code, said = await run(program, command)
    assert code == 1 and said["code"] == Code.INVALID_ENVIRONMENT


async def test_an_agent_that_dies_while_it_is_asked_leaves_the_question_to_the_next(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    program = compiled(tmp_path, socket, 20_000, 30_000)
    asked = asyncio.Event()

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 400\r\n\r\n{")
        writer.close()
        asked.set()

    async def on_call(call: Call) -> None:
        """Whoever comes next lets it through."""

    first = await asyncio.start_unix_server(dies, socket)
    adding = asyncio.create_task(run(program, "ADD"))
    async with asyncio.timeout(10):
        await asked.wait()
    first.close()
    async with answers(on_call, socket):
        assert await adding == (0, RESULT)


async def test_a_defect_of_the_agent_is_no_answer(program: Path, socket: Path) -> None:
    async def on_call(call: Call) -> None:
        raise RuntimeError("a defect")

    async with answers(on_call, socket):
        code, said = await run(program, "ADD")
    assert code == 1 and "error of its own" in said["msg"]


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (b"{", Code.UNREADABLE),
        (b"[]", Code.UNREADABLE),
        ({"cniVersion": "1.0.0"}, Code.INVALID_CONFIGURATION),
        ({**CONFIG, "prevResult": {"ips": [{"address": "nowhere"}]}}, Code.INVALID_CONFIGURATION),
        ({**CONFIG, "prevResult": {"ips": [{"address": "10.0.0.1/8", "interface": 9}]}}, Code.INVALID_CONFIGURATION),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_code(
    program: Path, socket: Path, config: Any, code: Code
) -> None:
    async def on_call(call: Call) -> None:
        pytest.fail("asked all the same")

    async with answers(on_call, socket):
        status, said = await run(program, "ADD", config)
    assert (status, said["code"]) == (1, code)


def called(config: Any, **variables: str) -> Call:
    words = {"CNI_COMMAND": "ADD", "CNI_IFNAME": "eth0", "CNI_CONTAINERID": "c1", "CNI_ARGS": ARGS, **variables}
    head = b"".join(f"{key}={value}\0".encode() for key, value in words.items())
    return Call.parse(head + b"\0" + json.dumps(config).encode())


@pytest.mark.parametrize(
    ("result", "addresses"),
    [
        ({"ips": [{"version": "4", "address": "10.0.0.9/24"}]}, ["10.0.0.9"]),
        ({"ip4": {"ip": "10.0.0.9/24"}, "ip6": {"ip": "fd00::9/64"}}, ["10.0.0.9", "fd00::9"]),
        ({"interfaces": [{"name": "eth0"}]}, []),
    ],
)
def test_results_of_all_versions_are_understood(result: Any, addresses: list[str]) -> None:
    call = called({"cniVersion": "0.3.1", "prevResult": result})
    assert call.attachment is not None
    assert [str(address) for address in call.attachment.addresses] == addresses
    assert json.loads(call.answer()) == {"cniVersion": "0.3.1", **result}


def test_a_sandbox_that_is_no_pod_has_nothing_to_wait_for() -> None:
    assert called(CONFIG, CNI_ARGS="").attachment is None


def test_a_request_without_its_parts_is_refused() -> None:
    with pytest.raises(ChainError):
        Call.parse(b"CNI_COMMAND=ADD")
