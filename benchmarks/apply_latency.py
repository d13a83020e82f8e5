"""From `kubectl apply` of a policy to its entries in the kernel of every node.

Prints one JSON object: `apply_ms` counts from the moment at which kubectl has returned (0 when the entries were there
by then), `apply_with_kubectl_ms` from the moment at which it was started. Entries are read from each node's pinned map.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from egresslab.datapath.listing import egress_rows
from egresslab.environments.base import Silent
from egresslab.environments.netns.doctor import kubectl_path
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.environments.netns.paths import LabPaths

DEADLINE_S = 10.0
POLL_S = 0.001
NAMESPACE = "apply-latency"


def policy(name: str, destination: str, gateway: str) -> str:
    """A policy for the one pod of this benchmark, as JSON."""
    return json.dumps(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumEgressGatewayPolicy",
            "metadata": {"name": name},
            "spec": {
                "selectors": [{"podSelector": {"matchLabels": {"io.kubernetes.pod.namespace": NAMESPACE}}}],
                "destinationCIDRs": [destination],
                "egressGateway": {
                    "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": gateway}},
                    "interface": "eth1",
                },
            },
        }
    )


async def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run kubectl; raises RuntimeError with what it said when it fails."""
    process = await asyncio.create_subprocess_exec(
        str(kubectl_path()),
        "--kubeconfig",
        str(kubeconfig),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode() if stdin else None)
    if process.returncode:
        raise RuntimeError(err.decode())
    return out.decode()


async def appeared(pin_dir: Path, destination: str, *, there: bool) -> float:
    """The time at which the node's kernel was seen to hold (or no longer hold) a row for the destination."""
    deadline = time.perf_counter() + DEADLINE_S
    while time.perf_counter() < deadline:
        if any(row["DestCIDR"] == destination for row in egress_rows(pin_dir)) is there:
            return time.perf_counter()
        await asyncio.sleep(POLL_S)
    raise RuntimeError(f"{pin_dir}: no change of {destination} within {DEADLINE_S} s")


async def measure(kubeconfig: Path, pin_dirs: list[Path], gateway: str, repeats: int) -> list[tuple[float, float]]:
    """(after kubectl returned, after it was started) in milliseconds, for each repeat."""
    found = []
    for number in range(repeats):
        destination = f"198.51.100.{number % 250 + 1}/32"
        watchers = [asyncio.create_task(appeared(pin_dir, destination, there=True)) for pin_dir in pin_dirs]
        started = time.perf_counter()
        await kubectl(kubeconfig, "apply", "-f", "-", stdin=policy("apply-latency", destination, gateway))
        returned = time.perf_counter()
        last = max(await asyncio.gather(*watchers))
        found.append((max(0.0, last - returned) * 1e3, (last - started) * 1e3))
        print(f"{number + 1}/{repeats}: {found[-1][0]:.1f} ms after kubectl", file=sys.stderr)
        await kubectl(kubeconfig, "delete", "cegp", "apply-latency", "--wait=false")
        await asyncio.gather(*(appeared(pin_dir, destination, there=False) for pin_dir in pin_dirs))
    return found


def spread(values: list[float]) -> dict[str, float]:
    """p50, p99 and max, to a hundredth."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"p50": round(statistics.median(ordered), 2), "p99": round(p99, 2), "max": round(ordered[-1], 2)}


async def run(kubeconfig: Path, lab: NetnsEnvironment, repeats: int) -> dict[str, Any]:
    """The whole benchmark on a lab that is up."""
    await kubectl(kubeconfig, "create", "namespace", NAMESPACE)
    pod = ("run", "client", "-n", NAMESPACE, "--image=curlimages/curl", "--command", "--", "sleep", "infinity")
    await kubectl(kubeconfig, *pod)
    await kubectl(kubeconfig, "wait", "-n", NAMESPACE, "--for=condition=Ready", "pod/client", "--timeout=30s")
    nodes = (await kubectl(kubeconfig, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}")).split()
    pin_dirs = [LabPaths(lab.lab).bpffs(node) / "egresslab" for node in nodes]
    found = await measure(kubeconfig, pin_dirs, nodes[-1], repeats)
    return {
        "apply_ms": spread([after for after, _ in found]),
        "apply_with_kubectl_ms": spread([total for _, total in found]),
        "nodes": len(nodes),
        "repeats": repeats,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Bring a lab up, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--lab", default="bench-apply")
    options = parser.parse_args()
    lab = NetnsEnvironment(options.lab)
    try:
        lab.create(Silent())
        print(json.dumps(asyncio.run(run(lab.kubeconfig(), lab, options.repeats))))
    finally:
        lab.delete(Silent())


if __name__ == "__main__":
    main()
