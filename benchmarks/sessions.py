"""Replication of sessions: how long a standby takes to have everything, how soon it has what opens, and what it costs.

Holder and standby run in processes of their own, with flow tables of their own. Prints one JSON object.

    sudo python benchmarks/sessions.py --flows 100000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from egresslab.agent.flowstream import FlowStream
from egresslab.agent.sessionlink import ReplicatedLease
from egresslab.agent.sessions import Sessions
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.flowcopy import FlowCopier
from egresslab.datapath.values import Event, Flow, FlowEvent, FlowKey, FlowKind, Program, Protocol, Reason

LEASE, SLOT = 77, 3
HOLDER, STANDBY = IPv4Address("127.0.0.91"), IPv4Address("127.0.0.92")
VIP, REMOTE = IPv4Address("172.18.18.200"), IPv4Address("203.0.113.10")
TICK_S = 0.005


class Ring:
    """A ring buffer that the benchmark fills."""

    def __init__(self) -> None:
        self.fd, _ = os.pipe()
        self.lost = 0
        self.waiting: list[FlowEvent] = []

    def read(self, callback: Callable[[FlowEvent], None], at_most: int | None = None) -> int:
        part, self.waiting = self.waiting[:at_most], self.waiting[at_most or len(self.waiting) :]
        for event in part:
            callback(event)
        return len(part)


class Stalls:
    """The longest time for which nothing else could run, in ms."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.longest = max(self.longest, (time.perf_counter() - before - TICK_S) * 1000)


def flow(number: int) -> Flow:
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    pod = ip_address(f"10.244.{1 + number // 60_000}.7")
    key = FlowKey(pod, 1024 + number % 60_000, REMOTE, 443 + number // 60_000, Protocol.TCP)
    return Flow(key, FlowKind.TRANSLATED, SLOT, VIP, key.local_port, None, now, now, 2)


def event(told: Flow) -> FlowEvent:
    return FlowEvent(
        Event.OPENED,
        Program.FROM_OVERLAY,
        Reason.NONE,
        time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        told.key.protocol,
        told.key.local,
        told.key.local_port,
        told.key.remote,
        told.key.remote_port,
        told.address,
        told.port,
        told.slot,
        told.node,
        1,
    )


def sessions(datapath: Datapath, ring: Ring, address: IPv4Address, *, held: bool) -> tuple[Sessions, FlowStream]:
    stream = FlowStream(ring, lambda _: None, lambda _: None)
    made = Sessions(str(address), address, stream, FlowCopier(datapath.nat, address), lambda: None)
    others = {str(other): other for other in (HOLDER, STANDBY) if other != address}
    made.update([ReplicatedLease(LEASE, 1, held, frozenset({SLOT}), others)])
    return made, stream


def standby(pins: Path, stop: multiprocessing.synchronize.Event, answer: multiprocessing.connection.Connection) -> None:
    """The other process."""

    async def run() -> None:
        with Datapath.open(pins) as datapath:
            made, _ = sessions(datapath, Ring(), STANDBY, held=False)
            stalls = Stalls()
            tasks = [asyncio.create_task(made.run()), asyncio.create_task(stalls.watch())]
            await asyncio.get_running_loop().run_in_executor(None, stop.wait)
            for task in tasks:
                task.cancel()
            answer.send((stalls.longest, time.process_time()))

    asyncio.run(run())


async def measure(pins: Path, flows: int) -> dict[str, float]:
    with Datapath.open(pins / "holder") as holder, Datapath.open(pins / "standby") as other:
        print(f"{flows} flows …", file=sys.stderr)
        holder.nat.insert(map(flow, range(flows)))
        ring, stalls = Ring(), Stalls()
        made, stream = sessions(holder, ring, HOLDER, held=True)
        news = asyncio.Event()
        made.on_sync = news.set
        began, used = time.perf_counter(), time.process_time()
        tasks = [asyncio.create_task(made.run()), asyncio.create_task(stalls.watch())]
        while not made.synced(LEASE, str(STANDBY)):
            await news.wait()
            news.clear()
        everything, used = time.perf_counter() - began, time.process_time() - used
        print(f"everything there after {everything:.2f} s; one by one …", file=sys.stderr)
        delays = []
        for number in range(flows, flows + 200):
            new = flow(number)
            ring.waiting.append(event(new))
            began = time.perf_counter()
            stream.read()
            while other.nat.get(new.key) is None:  # noqa: ASYNC110  # a map rings no bell
                await asyncio.sleep(0)
            delays.append((time.perf_counter() - began) * 1000)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {
            "flows": flows,
            "everything_s": round(everything, 2),
            "holder_cpu_s": round(used, 2),
            "holder_longest_stall_ms": round(stalls.longest, 1),
            "opened_ms_median": round(statistics.median(delays), 2),
            "opened_ms_worst": round(max(delays), 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        pins = Path(directory)
        subprocess.run(["mount", "-t", "bpf", "bpf", directory], check=True)
        try:
            for side in ("holder", "standby"):
                Datapath.open(pins / side).close()
            context = multiprocessing.get_context("spawn")
            stop, (here, there) = context.Event(), context.Pipe()
            process = context.Process(target=standby, args=(pins / "standby", stop, there))
            process.start()
            try:
                found = asyncio.run(measure(pins, options.flows))
            finally:
                stop.set()
                stall, used = here.recv() if here.poll(5) else (float("nan"), float("nan"))
                process.join(5)
                process.kill()
            found |= {"standby_longest_stall_ms": round(stall, 1), "standby_cpu_s": round(used, 2)}
        finally:
            subprocess.run(["umount", directory], check=True)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
