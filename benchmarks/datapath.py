"""The datapath against the kernel's own way (policy routing, VXLAN, nftables SNAT) and against plain masquerade.

Three identical networks of namespaces stand side by side; rounds alternate between them, so that noise hits all alike.
One JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from ctypes import CDLL
from ipaddress import IPv4Address, ip_address, ip_network
from multiprocessing import get_context
from pathlib import Path

from pyroute2 import AsyncIPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from egresslab.datapath.datapath import Datapath
from egresslab.datapath.testing import Rig, index_of
from egresslab.datapath.trial import test_run
from egresslab.datapath.values import GatewaySlot, PolicyEntry, Program

TARGET = "203.0.113.10"
PORT = 9000
WAYS = ("egresslab", "kernel", "direct")
LOADS = {"throughput": "stream", "connections": "connections", "packets": "packets"}
SIZES = (10, 1_000, 100_000)
FIRST_POD = int(IPv4Address("10.244.0.0"))
"""Other pods' addresses lie around the measured ones, so that a lookup walks as deep as it can."""
CLONE_NEWNET = 0x4000_0000
MACS = {"dst": "02:00:00:00:00:01", "src": "02:00:00:00:00:02"}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class CabledRig(Rig):
    """The rig with cables in place of bridges: what forwards between nodes is a switch's work, not theirs."""

    async def _wire(
        self, netlink: AsyncIPRoute, fabric: AsyncIPRoute, name: str, namespace: str, number: str
    ) -> dict[str, int]:
        if name == "outside":
            return {}
        if name == "source":
            peer = {"ifname": "gateway", "net_ns_fd": self.fabric}
            await netlink.link("add", ifname="eth0", kind="veth", peer=peer)
        else:
            held = await index_of(fabric, "gateway")
            await fabric.link("set", index=held, net_ns_fd=namespace)
            await netlink.link("set", index=await index_of(netlink, "gateway"), ifname="eth0")
        peer = {"ifname": name, "net_ns_fd": self.outside}
        await netlink.link("add", ifname="eth1", kind="veth", peer=peer)
        script = f"""
          ip addr add 172.18.18.1/32 dev {name}; ip link set {name} up; ip route add 172.18.18.{number}/32 dev {name}
          ip -6 addr add fd00:18::1/128 dev {name}; ip -6 route add fd00:18::{number}/128 dev {name}
        """
        await self.run(self.outside, "sh", "-ec", script)
        script = f"""
          ip addr add 192.168.60.{number}/24 dev eth0; ip addr add 172.18.18.{number}/24 dev eth1
          ip -6 addr add fd00:60::{number}/64 dev eth0; ip -6 addr add fd00:18::{number}/64 dev eth1
          ip link set eth0 up; ip link set eth1 up
        """
        await self.run(namespace, "sh", "-ec", script)
        return {link: await index_of(netlink, link) for link in ("eth0", "eth1")}

    async def _node(self, fabric: AsyncIPRoute, name: str, number: int, bpf: Path) -> None:
        await super()._node(fabric, name, number, bpf)
        for family in ("-4", "-6"):
            await self.run(self.nodes[name].namespace, "ip", family, "route", "del", "default", "dev", "eth0")


async def by_egresslab(rig: Rig) -> None:
    """What this project does."""
    rig.select(rig.nodes["source"].pods[0], "0.0.0.0/0", gateway="gateway")


async def without_us(rig: Rig) -> None:
    """Plain masquerade behind the pod's own node; our programs are gone from every link."""
    for node in rig.nodes.values():
        for index in (*node.links.values(), node.overlay, *(pod.ifindex for pod in node.pods)):
            await node.attachments.detach(index)


async def by_the_kernel(rig: Rig) -> None:
    """Policy routing into a VXLAN tunnel, and SNAT by nftables on the gateway. Nodes go on masquerading other pods, and
    so track connections, as they do beside our programs."""
    await without_us(rig)
    source, gateway = rig.nodes["source"], rig.nodes["gateway"]
    pod = source.pods[0]
    for node, peer, own in ((source, gateway, "10.99.0.1"), (gateway, source, "10.99.0.2")):
        script = f"""
          ip link del egress0
          ip link add vx0 type vxlan id 9 dstport 8472 local {node.v4} remote {peer.v4} dev eth0
          ip addr add {own}/24 dev vx0
          ip link set vx0 mtu 1450 up
          echo 2 > /proc/sys/net/ipv4/conf/all/rp_filter
          echo 2 > /proc/sys/net/ipv4/conf/vx0/rp_filter
          echo 2 > /proc/sys/net/ipv4/conf/eth1/rp_filter
        """
        await rig.run(node.namespace, "sh", "-ec", script)
    await rig.run(
        source.namespace,
        "sh",
        "-ec",
        f"ip route add default via 10.99.0.2 dev vx0 table 100; ip rule add from {pod.v4} lookup 100 prio 100;"
        f" ip rule add to 10.244.0.0/16 lookup main prio 99;"
        f" nft insert rule inet pods postrouting ip saddr {pod.v4} return",
    )
    await rig.run(
        gateway.namespace,
        "sh",
        "-ec",
        f"ip route add default via 172.18.18.1 dev eth1 table 100; ip rule add from {pod.v4} lookup 100 prio 100;"
        f" ip route replace {pod.v4}/32 via 10.99.0.1 dev vx0;"
        f" nft insert rule inet pods postrouting ip saddr {pod.v4} oifname eth1 snat ip to {gateway.public_v4}",
    )


PREPARE = {"egresslab": by_egresslab, "kernel": by_the_kernel, "direct": without_us}


@contextlib.asynccontextmanager
async def network(way: str, load: Path, first: tuple[str, ...] = ()) -> AsyncIterator[Rig]:
    """A network set up for one way, with a sink outside; checks by a packet that the way is the one taken."""
    async with CabledRig("source", "gateway", policy_entries=131_072) as rig:
        await PREPARE[way](rig)
        pod = rig.nodes["source"].pods[0]
        # All rounds together open more connections than there are ports, and an ended one keeps its own for a minute.
        ports = "cd /proc/sys/net/ipv4; echo 1024 65535 > ip_local_port_range; echo 1 > tcp_tw_reuse"
        await rig.run(pod.namespace, "sh", "-ec", ports)
        sink = await asyncio.create_subprocess_exec(
            *first, "nsenter", f"--net=/run/netns/{rig.outside}", str(load), "sink", TARGET, str(PORT),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert sink.stdout
        try:
            await asyncio.wait_for(sink.stdout.readline(), 10)
            yield rig
        finally:
            sink.kill()
            await sink.wait()


async def observed_source(rig: Rig) -> str:
    """The address that outside sees."""
    listener = (
        "import socket; s = socket.create_server(('', 9001)); print('ready', flush=True); print(s.accept()[1][0])"
    )
    outside = await asyncio.create_subprocess_exec(
        "nsenter", f"--net=/run/netns/{rig.outside}", sys.executable, "-c", listener, stdout=asyncio.subprocess.PIPE
    )
    assert outside.stdout
    await asyncio.wait_for(outside.stdout.readline(), 10)
    knock = f"import socket; socket.create_connection(('{TARGET}', 9001), 5)"
    await rig.run(rig.nodes["source"].pods[0].namespace, sys.executable, "-c", knock)
    address = (await asyncio.wait_for(outside.stdout.readline(), 10)).decode().strip()
    await outside.wait()
    return address


async def compare(
    load: Path, seconds: float, repeats: int, first: tuple[str, ...]
) -> dict[str, dict[str, list[float]]]:
    """Load, then way, to what each round gave."""
    results: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in LOADS}
    async with contextlib.AsyncExitStack() as stack:
        rigs = {way: await stack.enter_async_context(network(way, load, first)) for way in WAYS}
        for way, rig in rigs.items():
            say(f"{way}: outside sees {await observed_source(rig)}")
        for number in range(repeats):
            for name, verb in LOADS.items():
                for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                    pod = rigs[way].nodes["source"].pods[0]
                    text = await rigs[way].run(pod.namespace, *first, str(load), verb, TARGET, str(PORT), str(seconds))
                    results[name][way].append(float(text))
                say(f"round {number + 1}: {name} " + ", ".join(f"{way} {results[name][way][-1]:.3f}" for way in WAYS))
    return results


def enter(namespace: str) -> None:
    """First thing in the measuring process."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    CDLL(None).setns(fd, CLONE_NEWNET)
    os.close(fd)


def frame(source: object, destination: str, sport: int = 5000, dport: int = 53) -> bytes:
    packet = Ether(**MACS, type=0x0800) / IP(src=str(source), dst=destination) / UDP(sport=sport, dport=dport)
    return bytes(packet / Raw(bytes(18)))


def measure_programs(pin_dir: Path, links: dict[str, int], pods: dict[str, str]) -> dict[str, float]:
    """Median nanoseconds of one run of each program. Those that change the packet run once for each measurement, which
    includes reading the clock; the others run 10,000 times in a row."""
    found = {}
    with Datapath.open(pin_dir, policy_entries=131_072, nat_entries=65_536) as datapath:
        local, remote = pods["local"], pods["remote"]
        steered = frame(local, "198.51.100.7")
        plain = [
            ("from_pod", Program.FROM_POD, steered, links["pod"], 10_000),
            ("to_pod", Program.TO_POD, frame("198.51.100.7", local, 53, 5000), links["pod"], 10_000),
            ("to_wire", Program.TO_WIRE, frame("192.168.60.12", "192.168.60.1"), links["eth0"], 10_000),
            ("from_pod_translated", Program.FROM_POD, frame(local, TARGET), links["pod"], 1),
            ("from_overlay", Program.FROM_OVERLAY, frame(remote, TARGET), links["overlay"], 1),
            ("from_wire", Program.FROM_WIRE, frame(TARGET, "172.18.18.12", 53, 5000), links["eth0"], 1),
        ]
        for name, program, packet, index, repeat in plain:
            runs = 15 if repeat > 1 else 2_000
            times = [test_run(datapath, program, packet, ifindex=index, repeat=repeat).nanoseconds for _ in range(runs)]
            found[name] = statistics.median(times)
    return found


async def tables() -> dict[str, object]:
    """What grows with the number of entries: nanoseconds per packet, loading, moving a slot."""
    per_packet: dict[str, dict[str, float]] = {}
    loads: list[float] = []
    moves: list[float] = []
    async with Rig("source", "gateway", policy_entries=131_072) as rig:
        gateway = rig.nodes["gateway"]
        pod, remote = gateway.pods[0], rig.nodes["source"].pods[0]
        links = {"pod": pod.ifindex, "overlay": gateway.overlay, **gateway.links}
        rig.select(remote, "0.0.0.0/0", gateway="gateway")
        slots = gateway.datapath.slots
        slots.set(2, GatewaySlot(IPv4Address("192.168.60.11")))
        own = [
            PolicyEntry(pod.v4, ip_network("0.0.0.0/0"), 1),
            PolicyEntry(pod.v4, ip_network("198.51.100.0/24"), 2),
            PolicyEntry(remote.v4, ip_network("0.0.0.0/0"), 1),
        ]
        for size in SIZES:
            others = [
                PolicyEntry(ip_address(FIRST_POD + number), ip_network("0.0.0.0/0"), 1)
                for number in range(size - len(own))
                if FIRST_POD + number not in (int(pod.v4), int(remote.v4))
            ]
            for _ in range(3 if size == SIZES[-1] else 1):
                gateway.datapath.policy.replace([])
                started = time.perf_counter()
                gateway.datapath.policy.replace([*own, *others])
                if size == SIZES[-1]:
                    loads.append(time.perf_counter() - started)
            for pinned, suffix in ((True, ""), (False, "_unpinned")):
                gateway.datapath.configure(gateway.config(pin_flows=pinned))
                with ProcessPoolExecutor(
                    1, mp_context=get_context("spawn"), initializer=enter, initargs=(gateway.namespace,)
                ) as pool:
                    pods = {"local": str(pod.v4), "remote": str(remote.v4)}
                    job = asyncio.get_running_loop().run_in_executor(
                        pool, measure_programs, gateway.pin_dir, links, pods
                    )
                    for name, nanoseconds in (await job).items():
                        per_packet.setdefault(name + suffix, {})[str(size)] = nanoseconds
            say(
                f"{size} entries: "
                + ", ".join(f"{name} {value[str(size)]:.0f} ns" for name, value in per_packet.items())
            )
        for number in range(200):
            started = time.perf_counter()
            slots.set(1, GatewaySlot(gateway.v4, IPv4Address(0xAC12_1200 + number % 250), local=True))
            moves.append((time.perf_counter() - started) * 1000)
    return {
        "ns_per_packet": per_packet,
        "load_100k_s": round(statistics.median(loads), 3),
        "slot_move_ms": round(statistics.median(moves), 4),
    }


def summary(values: list[float], digits: int) -> float:
    return round(statistics.median(values), digits)


async def main() -> None:
    """Run, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one round of one load")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--skip-tables", action="store_true", help="leave out what grows with the number of entries")
    parser.add_argument("--realtime", action="store_true", help="go before other work on this machine, such as builds")
    options = parser.parse_args()
    first = ("chrt", "--fifo", "50") if options.realtime else ()
    with tempfile.TemporaryDirectory(prefix="dp-bench-") as folder:
        load = Path(folder) / "load"
        source = Path(__file__).parent / "load.c"
        await asyncio.to_thread(subprocess.run, ["clang", "-O2", "-o", str(load), str(source)], check=True)
        results = await compare(load, options.seconds, options.repeats, first)
    grown = {} if options.skip_tables else await tables()
    medians = {name: {way: statistics.median(values) for way, values in ways.items()} for name, ways in results.items()}
    ratios = {
        name: {
            way: round(statistics.median(a / b for a, b in zip(ways["egresslab"], ways[way], strict=True)), 3)
            for way in ("kernel", "direct")
        }
        for name, ways in results.items()
    }
    report = {
        "throughput_gbps": {way: round(value, 2) for way, value in medians["throughput"].items()},
        "connections_per_s": {way: round(value) for way, value in medians["connections"].items()},
        "packets_per_s": {way: round(value) for way, value in medians["packets"].items()},
        "ratio_to_kernel": {name: ratio["kernel"] for name, ratio in ratios.items()},
        "ratio_to_direct": {name: ratio["direct"] for name, ratio in ratios.items()},
        "spread": {
            name: {way: [round(min(values), 2), round(max(values), 2)] for way, values in ways.items()}
            for name, ways in results.items()
        },
        **grown,
        "repeats": options.repeats,
        "realtime": options.realtime,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
