"""Memory of operator, agent and voter in a cluster of 5,000 pods and 200 policies.

The pods are objects on nodes that nobody runs, with an address of each family; each policy selects its share of them
and has a destination of each family, so that every agent holds two entries for each pod. Figures are resident set sizes
as the kernel counts them (`VmRSS`, and `VmHWM`, the peak), read inside the containers; of the agents and voters the
largest. `verify_s` is how long `egresslab policy verify` takes to compare all of it. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from egresslab.api.connection import Api, connect
from egresslab.api.resources import CILIUM_POLICIES, NAMESPACES, NODES, PODS, Object
from egresslab.cli.verification import Question, compare_kernels
from egresslab.environments.base import Silent
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.errors import ClusterError
from egresslab.flows.execs import output_lines
from egresslab.policy.verify import Whose

NAMESPACE = "footprint"
GHOSTS = 50
GATEWAY = "lab-worker2"
AT_ONCE = 16
DEADLINE_S = 600.0
MIB = 1024
"""In units of /proc/PID/status."""
SCRIPT = """
import json, pathlib
found = []
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    try:
        words = (status.parent / "cmdline").read_bytes().decode().split("\\0")
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    except OSError:
        continue
    if "-m" in words:
        found.append([words[words.index("-m") + 1], int(fields["VmRSS"].split()[0]), int(fields["VmHWM"].split()[0])])
print(json.dumps(found))
"""
CONTAINERS = (("egresslab-operator", "operator"), ("egresslab-agent", "agent"), ("egresslab-agent", "voter"))


def ghost(number: int) -> Object:
    """A node that is not there."""
    addresses = [{"type": "InternalIP", "address": f"198.18.0.{number + 1}"}]
    conditions = [{"type": "Ready", "status": "True"}]
    name = f"ghost-{number}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": "ghost", "effect": "NoSchedule"}]},
        "status": {"addresses": addresses, "conditions": conditions},
    }


def pod(number: int, policies: int) -> Object:
    """A pod as an API server tells of it, with some of what real ones carry."""
    labels = {"app": f"app-{number % policies}", "pod-template-hash": "7c9f8d6b5", "tier": "backend", "release": "r1"}
    container = {
        "name": "main",
        "image": "registry.example/team/app:1.2.3",
        "env": [{"name": f"SETTING_{index}", "value": "x" * 40} for index in range(8)],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"p{number}", "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "nodeName": f"ghost-{number % GHOSTS}",
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
        },
    }


def addresses(number: int) -> Object:
    """Its status."""
    high, low = divmod(number + 1, 250)
    ips = [{"ip": f"10.200.{high}.{low + 1}"}, {"ip": f"fd00:10:200::{number + 1:x}"}]
    return {"status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}}


def policy(number: int) -> Object:
    """For its share of the pods."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": f"footprint-{number}"},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": f"app-{number}"}}}],
            "destinationCIDRs": ["0.0.0.0/0", "::/0"],
            "egressGateway": {
                "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": GATEWAY}},
                "interface": "eth1",
            },
        },
    }


async def many(jobs: Iterable[Callable[[], Awaitable[Any]]]) -> None:
    """A few at a time."""
    waiting = iter(list(jobs))

    async def work() -> None:
        for job in waiting:
            await job()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def populate(api: Api, pods: int, policies: int) -> None:
    """Everything there is to hold in memory."""
    await api.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})

    async def node(number: int) -> None:
        body = ghost(number)
        await api.create(NODES, body)
        await api.patch(NODES, body["metadata"]["name"], {"status": body["status"]}, subresource="status")

    async def one(number: int) -> None:
        await api.create(PODS, pod(number, policies), NAMESPACE)
        await api.patch(PODS, f"p{number}", addresses(number), NAMESPACE, subresource="status")

    await many([lambda number=n: node(number) for n in range(GHOSTS)])  # type: ignore[misc]
    await many([lambda number=n: one(number) for n in range(pods)])  # type: ignore[misc]
    await many([lambda number=n: api.create(CILIUM_POLICIES, policy(number)) for n in range(policies)])  # type: ignore[misc]


async def look(api: Api, pod: str, container: str) -> bytes:
    """What the script prints there; a node that is busy starting refuses at first."""
    for attempt in range(5):
        try:
            command = ["python", "-c", SCRIPT]
            return b"".join([line async for line in output_lines(api, "kube-system", pod, container, command)])
        except ClusterError as error:
            print(f"{pod}: {error}, attempt {attempt + 1}"[-200:], file=sys.stderr)
            await asyncio.sleep(2.0)
    raise SystemExit(f"{pod} does not answer")


async def memory(api: Api) -> dict[str, dict[str, float]]:
    """By container, the largest of its kind, in MiB."""
    found: dict[str, dict[str, float]] = {}
    for daemon, container in CONTAINERS:
        pods, _ = await api.list(PODS, "kube-system", label_selector=f"app.kubernetes.io/name={daemon}")
        for each in pods:
            if each["status"].get("phase") != "Running":
                continue  # what the DaemonSet wants on nodes that are not there
            text = await look(api, each["metadata"]["name"], container)
            sizes = [(rss, peak) for module, rss, peak in json.loads(text) if module == f"egresslab.{container}"]
            rss, peak = max(sizes, default=(0, 0))
            known = found.setdefault(container, {"rss_mib": 0.0, "peak_mib": 0.0})
            known["rss_mib"] = max(known["rss_mib"], round(rss / MIB, 1))
            known["peak_mib"] = max(known["peak_mib"], round(peak / MIB, 1))
    return found


async def measure(kubeconfig: Path, pods: int, policies: int) -> dict[str, Any]:
    """Before, with everything there, and how long it took to come to agree."""
    question = Question(
        Whose.EGRESSLAB,
        frozenset(f"lab-{n}" for n in ("control-plane", "worker", "worker2", "worker3")),
        4,
        60.0,
        1.0,
        False,
    )
    async with connect(kubeconfig) as api:
        before = await memory(api)
        began = time.monotonic()
        await populate(api, pods, policies)
        populated = time.monotonic() - began
        while True:
            asked = time.monotonic()
            verified = await compare_kernels(kubeconfig, None, question)
            took = time.monotonic() - asked
            rows = min(verified.rows.values(), default=0)
            if verified.agrees and rows >= 2 * pods:
                break
            if time.monotonic() - began > DEADLINE_S:
                raise SystemExit(
                    f"kernels and policies do not agree after {DEADLINE_S:g} s: {verified.as_dict()['nodes']}"
                )
            print(f"{rows} rows, {len(verified.differences)} differences", file=sys.stderr)
        return {
            "benchmark": "footprint",
            "pods": pods,
            "policies": policies,
            "entries_per_node": rows,
            "empty": before,
            "full": await memory(api),
            "populate_s": round(populated, 1),
            "verify_s": round(took, 2),
            "load_average": round(os.getloadavg()[0], 1),
            "machine": {"kernel": platform.release(), "cpus": os.cpu_count(), "python": platform.python_version()},
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        }


def main() -> None:
    """Bring a lab up, measure, take it down. Exit status 1 above a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--policies", type=int, default=200)
    parser.add_argument("--lab", default="bench-memory")
    parser.add_argument("--operator-mib", type=float, default=300.0, help="what the operator may take")
    parser.add_argument("--agent-mib", type=float, default=100.0, help="what an agent may take")
    options = parser.parse_args()
    lab = NetnsEnvironment(options.lab)
    try:
        lab.create(Silent())
        found = asyncio.run(measure(lab.kubeconfig(), options.pods, options.policies))
    finally:
        lab.delete(Silent())
    full = found["full"]
    within = full["operator"]["rss_mib"] < options.operator_mib and full["agent"]["rss_mib"] < options.agent_mib
    print(json.dumps(found | {"within_limits": within}))
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
