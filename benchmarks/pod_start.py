"""Pods that send the moment they start: does any packet leave with another source than the policy's?

Every pod's first act is a request to a server outside, so a packet that beats its own policy would be seen there. The
capture is taken outside; `leaked_packets` counts those from any other source than the egress IP, `answered` the pods
that were answered at their first attempt. `first_packet_ms` is from the container's first instruction to the server
having the request. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from egresslab.api.connection import Api, connect
from egresslab.api.reflector import ObjectChange, Reflector
from egresslab.api.resources import CILIUM_POLICIES, NAMESPACES, PODS, Object
from egresslab.environments.base import Silent
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.environments.netns.paths import OUTSIDE, LabPaths

NAMESPACE = "pod-start"
TARGET = "203.0.113.10"
GATEWAY, EGRESS_IP = "lab-worker2", "172.18.18.12"
AT_ONCE = 24
DEADLINE_S = 60.0
FIRST_ACT = (
    "read began idle </proc/uptime; exec >/dev/termination-log; "
    f'curl -s --connect-timeout 0.9 --max-time 5 http://{TARGET}/json; echo " $began"'
)
BOOTED = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
"""When this machine started, in seconds of the epoch; /proc/uptime counts from there, in hundredths."""
SOURCE = re.compile(r" IP (\d+\.\d+\.\d+\.\d+)\.\d+ > ")


def pod(number: int) -> Object:
    """A pod that asks the server who it is, writes the answer down, and ends."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"p{number}", "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": "curlimages/curl", "command": ["sh", "-c", FIRST_ACT]}],
        },
    }


def policy() -> Object:
    """Everything that leaves the namespace goes through one gateway."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": NAMESPACE},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"io.kubernetes.pod.namespace": NAMESPACE}}}],
            "destinationCIDRs": ["0.0.0.0/0", "::/0"],
            "egressGateway": {
                "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": GATEWAY}},
                "interface": "eth1",
            },
        },
    }


class Runs:
    """Starts pods, so many at a time, and keeps what each wrote down."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ended: dict[str, asyncio.Future[str]] = {}
        self.pods = Reflector(api, PODS, self._changed, namespace=NAMESPACE)

    def _changed(self, change: ObjectChange) -> None:
        statuses = change.object.get("status", {}).get("containerStatuses") or [{}]
        ended = statuses[0].get("state", {}).get("terminated")
        waiting = self._ended.get(change.object["metadata"]["name"])
        if ended is not None and waiting is not None and not waiting.done():
            waiting.set_result(str(ended.get("message") or ""))

    async def run(self, number: int, turn: asyncio.Semaphore) -> str:
        """What the pod wrote down."""
        async with turn, asyncio.timeout(DEADLINE_S):
            name = f"p{number}"
            ended = self._ended[name] = asyncio.get_running_loop().create_future()
            await self._api.create(PODS, pod(number), NAMESPACE)
            message = await ended
            del self._ended[name]
            await self._api.delete(PODS, name, NAMESPACE, grace_period_s=0)
        if number % 100 == 99:
            print(f"{number + 1} pods", file=sys.stderr)
        return message


async def start_all(kubeconfig: Path, count: int) -> list[str]:
    """Start `count` pods and return what they wrote."""
    async with connect(kubeconfig) as api:
        await api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        await api.create(CILIUM_POLICIES, policy())
        runs, turn = Runs(api), asyncio.Semaphore(AT_ONCE)
        following = asyncio.create_task(runs.pods.run())
        await runs.pods.wait_synced(10)
        try:
            return await asyncio.gather(*(runs.run(number, turn) for number in range(count)))
        finally:
            following.cancel()


def first_packet_ms(message: str) -> float | None:
    """From the container's first instruction to the server having its request; None for no answer."""
    answer, _, began = message.strip().rpartition(" ")
    if not answer:
        return None
    seen = datetime.fromisoformat(json.loads(answer)["time"]).timestamp()
    return (seen - BOOTED - float(began)) * 1e3


def measure(lab: NetnsEnvironment, count: int) -> dict[str, Any]:
    """The whole benchmark on a lab that is up; packets are captured in the world's own namespace."""
    expression = f"dst host {TARGET} and tcp dst port 80"
    command = ["tcpdump", "--immediate-mode", "-B", "65536", "-Z", "root", "-n", "-t", "-i", "any", expression]
    namespace = LabPaths(lab.lab).namespace_file(OUTSIDE)
    with (
        tempfile.TemporaryFile("w+") as lines,  # not a pipe, which nobody would empty meanwhile
        subprocess.Popen(
            ["nsenter", f"--net={namespace}", *command], stdout=lines, stderr=subprocess.PIPE, text=True
        ) as capture,
    ):
        assert capture.stderr is not None
        while "listening on" not in (line := capture.stderr.readline()):
            if not line:
                raise RuntimeError("tcpdump ended before it began")
        began = time.perf_counter()
        try:
            messages = asyncio.run(start_all(lab.kubeconfig(), count))
        finally:
            capture.send_signal(signal.SIGINT)
        seconds = time.perf_counter() - began
        summary = capture.stderr.read()
        lines.seek(0)
        sources = Counter(found[1] for line in lines if (found := SOURCE.search(f" {line}")))
    if "\n0 packets dropped by kernel" not in summary:
        raise RuntimeError(f"the capture is not complete: {summary}")
    delays = sorted(delay for message in messages if (delay := first_packet_ms(message)) is not None)
    observed = Counter(json.loads(m.rpartition(" ")[0])["address"] for m in messages if m.strip().rpartition(" ")[0])
    return {
        "pods": count,
        "leaked_packets": sum(packets for source, packets in sources.items() if source != EGRESS_IP),
        "packets": sum(sources.values()),
        "answered": len(delays),
        "addresses_seen": dict(observed),
        "first_packet_ms": {
            "p50": round(statistics.median(delays), 1),
            "p99": round(delays[int(len(delays) * 0.99)], 1),
            "max": round(delays[-1], 1),
        },
        "pods_per_s": round(count / seconds, 1),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Bring a lab up, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=200)
    parser.add_argument("--lab", default="bench-pods")
    options = parser.parse_args()
    lab = NetnsEnvironment(options.lab)
    try:
        lab.create(Silent())
        print(json.dumps(measure(lab, options.pods)))
    finally:
        lab.delete(Silent())


if __name__ == "__main__":
    main()
