"""Voters on bare namespaces, without a cluster: how long nobody holds after a crash, what a voter costs, and whether a
busy machine moves anything.

A crash is a killed voter and two pulled cables at once. The gap ends when another node's kernel counts a majority and
the node with the pods follows it. Prints one JSON object; progress on stderr. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute

from egresslab.datapath.testing import Rig, index_of
from egresslab.voter.files import Candidate, Group, Pace, Peer, Voting, read_report, write

LEASE = 1
VOTERS = ("a", "b", "c")
FOLLOWER = "pods"
PATIENCE_S = 20.0
LOOK_S = 0.0005


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """Three voters that are candidates, and a node that follows."""

    def __init__(self, rig: Rig, directory: Path, pace: Pace) -> None:
        self.rig, self.directory = rig, directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        nodes = tuple(Peer(name, node.v4, node.v6) for name, node in rig.nodes.items())
        group = Group(
            LEASE,
            "egresslab/bench",
            tuple(map(Candidate, VOTERS)),
            addresses=(IPv4Address("172.18.18.201"),),
            announce=("eth1",),
            pace=pace,
        )
        for name in rig.nodes:
            (directory / name).mkdir()
            write(directory / name / "voting.json", Voting(name, nodes, VOTERS, 1, (group,)))

    def start(self, name: str) -> None:
        node = self.rig.nodes[name]
        paths = ("--run-dir", str(self.directory / name), "--pin-dir", str(node.pin_dir))
        namespace = f"--net=/run/netns/{node.namespace}"
        self.processes[name] = subprocess.Popen(
            ("nsenter", namespace, sys.executable, "-m", "egresslab.voter", *paths), stderr=subprocess.DEVNULL
        )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(PATIENCE_S)
        (self.directory / name / "voter-ready").unlink(missing_ok=True)

    def holders(self) -> list[str]:
        now = time.monotonic_ns()
        found = ((name, self.rig.nodes[name].datapath.leases.lease(LEASE)) for name in VOTERS)
        return [name for name, lease in found if lease is not None and lease.held(now)]

    def followed(self) -> str | None:
        holder = self.rig.nodes[FOLLOWER].datapath.leases.holder(LEASE)
        names = {node.v4: name for name, node in self.rig.nodes.items()}
        return names.get(holder.endpoint) if holder is not None and holder.endpoint is not None else None

    def epoch(self) -> int:
        leases = (self.rig.nodes[name].datapath.leases.lease(LEASE) for name in VOTERS)
        return max(lease.epoch for lease in leases if lease is not None)

    def until(self, condition: Callable[[], bool], what: str) -> float:
        """When it was so."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited in vain: {what}; {self.holders()}, {self.followed()}")
            time.sleep(LOOK_S)
        return time.monotonic()

    def settle(self) -> str:
        """All voters grant, one node holds, and it is followed; which."""
        for name in self.rig.nodes:
            if name not in self.processes:
                self.start(name)
        self.until(lambda: all((self.directory / n / "voter-ready").exists() for n in self.rig.nodes), "voters grant")
        self.until(lambda: self.holders() == [self.followed()], "one node holds")
        self.until(lambda: all(self.sees(one, other) for one in VOTERS for other in VOTERS), "all see all")
        return self.holders()[0]

    def sees(self, one: str, other: str) -> bool:
        report = read_report(self.directory / one / "voter.json")
        return report is not None and any(node.name == other and node.seen for node in report.nodes)


async def crash(bench: Bench, fabric: AsyncIPRoute) -> float:
    """Milliseconds from the crash until another holds and is followed."""
    holder = bench.settle()
    ports = [await index_of(fabric, f"{holder}.{order}") for order in (0, 1)]
    begin = time.monotonic()
    for port in ports:
        await fabric.link("set", index=port, state="down")
    bench.kill(holder)
    end = bench.until(
        lambda: bench.followed() not in (holder, None) and bench.holders() == [bench.followed()], "another holds"
    )
    for port in ports:
        await fabric.link("set", index=port, state="up")
    return (end - begin) * 1000


def cost(bench: Bench, seconds: float) -> dict[str, float]:
    """CPU of one core and memory of a voter that has nothing to do but vote, the worst of them."""
    bench.settle()

    def ticks(process: subprocess.Popen[bytes]) -> int:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = {name: ticks(process) for name, process in bench.processes.items()}
    begin = time.monotonic()
    time.sleep(seconds)
    passed = (time.monotonic() - begin) * os.sysconf("SC_CLK_TCK")
    shares = [100 * (ticks(process) - before[name]) / passed for name, process in bench.processes.items()]
    pages = [int(Path(f"/proc/{p.pid}/statm").read_text().split()[1]) for p in bench.processes.values()]
    return {
        "cpu_percent": round(max(shares), 2),
        "rss_mb": round(max(pages) * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1),
    }


@contextmanager
def busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen((sys.executable, "-c", "while True: pass")) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def steadiness(bench: Bench, seconds: float) -> dict[str, float]:
    """Moves, and milliseconds in which nobody held, with every core busy twice over."""
    bench.settle()
    epoch, unheld, looks = bench.epoch(), 0, 0
    with busy(2 * (os.cpu_count() or 1)):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            looks += 1
            unheld += not bench.holders()
            time.sleep(0.002)
    reports = [read_report(bench.directory / name / "voter.json") for name in VOTERS]
    return {
        "seconds": seconds,
        "moves": bench.epoch() - epoch,
        "unheld_percent": round(100 * unheld / looks, 3),
        "latest_wake_up_ms": max(report.late_ms for report in reports if report is not None),
    }


def stopper() -> Callable[[int, object], None]:
    """What SIGTERM does: this process takes its networks away first, the netlink library's children just end."""
    own = os.getpid()

    def stop(*_: object) -> None:
        if os.getpid() != own:
            os._exit(143)
        sys.exit(143)

    return stop


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "repeats": len(values),
        "p50_ms": round(statistics.median(ordered), 1),
        "p99_ms": round(ordered[math.ceil(0.99 * len(ordered)) - 1], 1),
        "least_ms": round(ordered[0], 1),
        "most_ms": round(ordered[-1], 1),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the other measurements")
    parser.add_argument("--interval", type=int, default=50, help="of probes, ms")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, stopper())
    with contextlib.suppress(PermissionError):  # or the clock that stops the gap is late itself
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(5))
    with tempfile.TemporaryDirectory() as directory:
        async with Rig(*VOTERS, FOLLOWER) as rig, AsyncIPRoute(netns=rig.fabric) as fabric:
            bench = Bench(rig, Path(directory), Pace(interval_ms=arguments.interval))
            try:
                result: dict[str, Any] = {"kernel": platform.release(), "cores": os.cpu_count()}
                result["load_before"] = os.getloadavg()[0]
                result["voter"] = cost(bench, arguments.seconds)
                say(f"voter: {result['voter']}")
                gaps = []
                for _ in range(arguments.repeats):
                    gaps.append(await crash(bench, fabric))
                    say(f"crash: {gaps[-1]:.0f} ms")
                result["crash"] = summary(gaps)
                result["busy"] = steadiness(bench, arguments.seconds)
            finally:
                for name in list(bench.processes):
                    bench.kill(name)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
