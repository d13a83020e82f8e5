"""How many flow events an agent digests, and what ten thousand a second cost it, with and without somebody looking.

Events come from the real program through `BPF_PROG_TEST_RUN`, in a process of its own; the agent's reader and server
run here, with nothing else. Prints one JSON object. `cpu` is in percent of one core; `late_ms` is how long the agent's
event loop kept others waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from egresslab.agent.flowserver import serve_flows
from egresslab.agent.flowstream import FlowStream, PodName
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.testing import BpfFilesystem
from egresslab.datapath.trial import test_run
from egresslab.datapath.values import NodeConfig, Program
from egresslab.flows.agentside import Observer
from egresslab.flows.filters import Filter
from egresslab.flows.flow import Flow, Lost
from egresslab.flows.names import DestinationNames

POD = "10.244.1.7"
FRAME = bytes(
    Ether(dst="02:00:00:00:00:01") / IP(src=POD, dst="203.0.113.10") / UDP(sport=4000, dport=53) / (b"x" * 32)
)
"""From an address that is nobody's, so that it is dropped and told."""
TICK_S = 0.01


def produce(pins: Path, rate: int, seconds: float) -> None:
    """So many events a second, in steps of TICK_S; how many in all goes to stdout."""
    with Datapath.open(pins) as datapath:
        began, told = time.monotonic(), 0
        while (elapsed := time.monotonic() - began) < seconds:
            due = int(rate * elapsed) - told
            if due > 0:
                test_run(datapath, Program.FROM_POD, FRAME, repeat=due)
                told += due
            time.sleep(TICK_S)
        print(told)


async def lateness(worst: list[float]) -> None:
    """Note by how much a timer of this loop was late at most."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.001)
        worst[0] = max(worst[0], time.monotonic() - began - 0.001)


async def observe(socket: Path, wanted: Filter, counted: dict[str, int]) -> None:
    """What `egresslab-dbg observe --follow` does, in a process of its own."""
    names = DestinationNames(lambda address: _named())
    with contextlib.suppress(asyncio.CancelledError):
        async for batch in Observer(socket, wanted, names).follow():
            counted["seen"] += sum(isinstance(told, Flow) for told in batch)
            counted["lost"] += sum(told.number for told in batch if isinstance(told, Lost))


async def _named() -> tuple[str, ...]:
    return ("resolver.example",)


@contextlib.asynccontextmanager
async def observer(socket: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, __file__, "--observe", str(socket), *options]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    yield process


async def scenario(pins: Path, datapath: Datapath, rate: int, seconds: float, observers: int) -> dict[str, Any]:
    """One run at a rate; CPU of this process alone, which is the agent's part."""
    stream = FlowStream(datapath.flows, {ip_address(POD): PodName("bench", "pod")}.get, {}.get)
    socket = pins.parent / "flows.sock"
    worst = [0.0]
    reading, ticking = asyncio.create_task(stream.run()), asyncio.create_task(lateness(worst))
    async with serve_flows(socket, "bench", stream), contextlib.AsyncExitStack() as stack:
        looking = [await stack.enter_async_context(observer(socket)) for _ in range(observers)]
        lost, cpu, worst[0] = stream.lost, time.process_time(), 0.0
        producer = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "--produce", str(pins), "--rate", str(rate), "--seconds", str(seconds)),
            stdout=asyncio.subprocess.PIPE,
        )
        told = int((await producer.communicate())[0])
        await asyncio.sleep(0.2)
        used = time.process_time() - cpu
        seen = [json.loads((await process.communicate(b"\n"))[0]) for process in looking]
    for task in (reading, ticking):
        task.cancel()
    await asyncio.gather(reading, ticking, return_exceptions=True)
    return {
        "events_per_s": rate,
        "observers": observers,
        "told": told,
        "read": stream.told.total(),
        "lost_by_kernel": stream.lost - lost,
        "agent_cpu": round(100 * used / seconds, 1),
        "agent_cpu_us_per_event": round(1e6 * used / max(told, 1), 1),
        "late_ms": round(1000 * worst[0], 1),
        "observers_saw": seen,
    }


def fill(datapath: Datapath) -> dict[str, Any]:
    """A ring buffer full of events, read as fast as it goes."""
    best = 0.0
    for _ in range(5):
        test_run(datapath, Program.FROM_POD, FRAME, repeat=9_000)
        stream = FlowStream(datapath.flows, {ip_address(POD): PodName("bench", "pod")}.get, {}.get)
        began, count = time.perf_counter(), 0
        while read := stream.read():
            count += read
        best = max(best, count / (time.perf_counter() - began))
    return {"events_digested_per_s": round(best)}


async def measure(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory, BpfFilesystem(Path(directory) / "bpf") as bpf:
        pins = bpf / "egresslab"
        with Datapath.open(pins) as datapath:
            datapath.configure(NodeConfig(drop_events_per_second=10_000_000))
            result = fill(datapath)
            runs = [(10_000, 0), (10_000, 1), (10_000, 3), (40_000, 0)]
            # Sockets do not fit into a bpffs.
            link = Path(directory) / "run"
            link.mkdir()
            scenarios = [await scenario(_at(link, pins), datapath, rate, seconds, n) for rate, n in runs]
            return {**result, "scenarios": scenarios, "kernel": platform.release(), "cores": os.cpu_count()}


def _at(directory: Path, pins: Path) -> Path:
    """The pins under a directory where sockets can be made."""
    alias = directory / "pins"
    if not alias.is_symlink():
        alias.symlink_to(pins)
    return alias


async def _look(socket: Path) -> None:
    counted = {"seen": 0, "lost": 0}
    looking = asyncio.create_task(observe(socket, Filter(), counted))
    await asyncio.sleep(0.5)
    print("looking", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    looking.cancel()
    await looking
    print(json.dumps({**counted, "cpu_s": round(time.process_time(), 2)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--produce", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--observe", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        produce(options.produce, options.rate, options.seconds)
    elif options.observe:
        asyncio.run(_look(options.observe))
    else:
        print(json.dumps(asyncio.run(measure(options.seconds)), indent=2))


if __name__ == "__main__":
    main()
