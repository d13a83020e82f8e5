"""How long decisions take: building all of them, one pod's event, a gateway node lost; and the plain way beside it.

Prints progress to stderr and one JSON object to stdout. All in this one process, on one core. The cluster is
made up: Deployments of twenty pods in namespaces, one policy for each of some teams, gateways in groups of nodes.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from egresslab.policy.engine import Engine
from egresslab.policy.entries import Change, Delete, Upsert
from egresslab.policy.inventory import Kind, Ref, Value
from egresslab.policy.objects import from_kubernetes
from egresslab.policy.reference import compute

Object = dict[str, Any]
PODS_OF_A_DEPLOYMENT = 20
GATEWAYS_SHARE = 20
"""One node in so many is a gateway node."""
EVENTS = 3000
LOSSES = 30
REFERENCE_EVENTS = 3
SIZES = (1_000, 3_000, 10_000, 30_000)
"""For showing growth; nodes and policies shrink in proportion."""


def namespaces(policies: int) -> Iterator[Object]:
    """One namespace for each team, and a team for each policy."""
    for team in range(policies):
        yield {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": f"team-{team}", "labels": {"team": f"t{team}", "tier": "business"}},
        }


def pairs_of(node_count: int) -> int:
    """How many pairs of gateway nodes there are."""
    return max(1, node_count // GATEWAYS_SHARE // 2)


def egress_ip(policy_number: int) -> str:
    """Each policy has an egress IP of its own, and so a slot of its own."""
    return f"172.20.{policy_number >> 8}.{policy_number & 255}"


def nodes(count: int, policies: int) -> Iterator[Object]:
    """Nodes; gateway nodes stand in pairs, each pair with a label of its own and the egress IPs of its policies."""
    for number in range(count):
        own: list[str] = []
        labels = {"kubernetes.io/hostname": f"node-{number:04}", "zone": f"z{number % 3}"}
        if number % GATEWAYS_SHARE == 0:
            labels["egress"] = "true"
            pair = number // GATEWAYS_SHARE // 2
            labels["egress-pair"] = f"pair-{pair}"
            own = [egress_ip(one) for one in range(policies) if one % pairs_of(count) == pair]
        address = f"192.168.{number // 250}.{number % 250 + 1}"
        interfaces = {
            "eth0": {"addresses": [f"{address}/16", f"fd00:60::{number + 1:x}/64"], "default_route": ["ipv4", "ipv6"]},
            "eth1": {"addresses": [*(f"{one}/32" for one in own), f"fd00:61::{number + 1:x}/64"]},
        }
        yield {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": f"node-{number:04}",
                "labels": labels,
                "annotations": {"egresslab.dev/interfaces": json.dumps(interfaces)},
            },
            "spec": {},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }


def policy(number: int, count: int) -> Object:
    """A policy for the backends of one team, with three destinations, through one pair of gateway nodes."""
    pair = f"pair-{number % pairs_of(count)}"
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": f"policy-{number}"},
        "spec": {
            "selectors": [
                {
                    "podSelector": {"matchLabels": {"component": "backend"}},
                    "namespaceSelector": {"matchLabels": {"team": f"t{number}"}},
                }
            ],
            "destinationCIDRs": ["203.0.113.0/24", f"198.51.{number % 256}.0/24", "2001:db8::/32"],
            "egressGateway": {"nodeSelector": {"matchLabels": {"egress-pair": pair}}, "egressIP": egress_ip(number)},
        },
    }


def pod(number: int, node_count: int, policies: int, unique: bool = False) -> Object:
    """A pod; nine of ten belong to a backend that a policy selects."""
    deployment = number // PODS_OF_A_DEPLOYMENT
    own = {
        "app": f"app-{deployment}",
        "component": "frontend" if deployment % 10 == 9 else "backend",
        "pod-template-hash": f"{deployment:08x}",
        **({"statefulset.kubernetes.io/pod-name": f"app-{number}"} if unique else {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"app-{deployment}-{number % PODS_OF_A_DEPLOYMENT}",
            "namespace": f"team-{deployment % policies}",
            "uid": f"00000000-0000-4000-8000-{number:012x}",
            "labels": own,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": f"node-{number % node_count:04}"},
        "status": {
            "podIPs": [
                {"ip": f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"},
                {"ip": f"fd00:10::{number >> 16:x}:{number & 0xFFFF:x}"},
            ]
        },
    }


def cluster(pods: int, node_count: int, policies: int, unique: bool) -> Iterator[Object]:
    """All objects, in the order in which an agent lists them."""
    yield from namespaces(policies)
    yield from nodes(node_count, policies)
    yield from (policy(number, node_count) for number in range(policies))
    yield from (pod(number, node_count, policies, unique) for number in range(pods))


def value(obj: Object) -> Value:
    """The value of an object that has one."""
    found = from_kubernetes(obj)
    assert found is not None
    return found


def milliseconds(work: Callable[[], object], cpu: list[float] | None = None) -> float:
    """How long a call takes by the clock; `cpu` collects the time that this thread had a core for it."""
    start, start_cpu = time.perf_counter(), time.thread_time()
    work()
    if cpu is not None:
        cpu.append((time.thread_time() - start_cpu) * 1000)
    return (time.perf_counter() - start) * 1000


def spread(times: list[float]) -> dict[str, float]:
    """p50, p99 and max."""
    ordered = sorted(times)
    return {
        "p50": round(statistics.median(ordered), 4),
        "p99": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 4),
        "max": round(ordered[-1], 4),
    }


def progress(text: str) -> None:
    """To stderr, since stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def measure(pods: int, node_count: int, policies: int, *, reference: bool, unique: bool) -> Object:
    """One size: build, pod events, gateway losses, and the reference's times."""
    progress(f"{pods} pods, {node_count} nodes, {policies} policies: build")
    engine = Engine()
    start, start_cpu = time.perf_counter(), time.thread_time()
    for obj in cluster(pods, node_count, policies, unique):
        engine.apply(Upsert(value(obj)))
    build_s, build_cpu_s = time.perf_counter() - start, time.thread_time() - start_cpu
    # Peak of the process, which for the first size measured is that of the build.
    rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    entries = engine.count(4) + engine.count(6)
    progress(f"  {entries} entries, {len(engine.slots())} slots in {build_s:.2f} s")

    shuffle = random.Random(1)
    added, relabelled, deleted = [], [], []
    cpu: list[float] = []
    for number in shuffle.choices(range(pods), k=EVENTS // 3):
        fresh = pod(pods + number, node_count, policies, unique)
        fresh["metadata"]["name"] += "-new"
        added.append(milliseconds(lambda fresh=fresh: engine.apply(Upsert(value(fresh))), cpu))  # type: ignore[misc]
        fresh["metadata"]["labels"] = {"app": "moved", "component": "backend", "unique": str(number)}
        relabelled.append(milliseconds(lambda fresh=fresh: engine.apply(Upsert(value(fresh))), cpu))  # type: ignore[misc]
        gone: Change = Delete(Ref(Kind.POD, fresh["metadata"]["uid"]))
        deleted.append(milliseconds(lambda gone=gone: engine.apply(gone), cpu))  # type: ignore[misc]

    gateways = [node for node in engine.registry.nodes.values() if "egress" in node.labels]
    losses, returns, moved = [], [], []
    loss_cpu: list[float] = []
    for node in (shuffle.choice(gateways) for _ in range(LOSSES)):
        before = engine.slots()
        losses.append(milliseconds(lambda node=node: engine.apply(Delete(node.ref)), loss_cpu))  # type: ignore[misc]
        moved.append(sum(before[number] != slot for number, slot in engine.slots().items()))
        returns.append(milliseconds(lambda node=node: engine.apply(Upsert(node))))  # type: ignore[misc]

    result: Object = {
        "pods": pods,
        "nodes": node_count,
        "policies": policies,
        "entries": entries,
        "slots": len(engine.slots()),
        "build_s": round(build_s, 3),
        "build_cpu_s": round(build_cpu_s, 3),
        "rss_mib": round(rss_mib, 1),
        "pod_event_ms": spread(added + relabelled + deleted),
        "pod_event_cpu_ms": spread(cpu),
        "pod_added_ms": spread(added),
        "pod_relabelled_ms": spread(relabelled),
        "pod_deleted_ms": spread(deleted),
        "gateway_loss_ms": round(statistics.median(losses), 4),
        "gateway_loss_spread_ms": spread(losses),
        "gateway_loss_cpu_ms": spread(loss_cpu),
        "gateway_return_spread_ms": spread(returns),
        "slots_moved_by_a_loss": {"median": statistics.median(moved), "max": max(moved)},
    }
    if reference:
        progress("  the plain way")
        values = list(engine.values.values())
        first = milliseconds(lambda: compute(values))
        # It has no other way to take in one change than to compute everything again; minutes are not spent twice.
        events = [milliseconds(lambda: compute(values)) for _ in range(REFERENCE_EVENTS)] if first < 20_000 else [first]
        result["reference_build_s"] = round(first / 1000, 3)
        result["reference_event_ms"] = round(statistics.median(events), 1)
    return result


def main() -> None:
    """Measure the size asked for, and smaller ones to show the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--policies", type=int, default=1_000)
    parser.add_argument("--no-growth", action="store_true", help="only the size asked for")
    parser.add_argument("--no-reference", action="store_true", help="leave out the reference implementation")
    parser.add_argument("--unique-labels", action="store_true", help="every pod has a label of its own (StatefulSets)")
    options = parser.parse_args()
    reference, unique = not options.no_reference, options.unique_labels
    # The largest first: the peak of resident memory never falls again.
    result = measure(options.pods, options.nodes, options.policies, reference=reference, unique=unique)
    growth = []
    for pods in () if options.no_growth else [size for size in SIZES if size < options.pods]:
        gc.collect()
        share = pods / options.pods
        small_nodes = max(GATEWAYS_SHARE * 2, round(options.nodes * share))
        growth.append(
            measure(pods, small_nodes, max(10, round(options.policies * share)), reference=reference, unique=unique)
        )
    result["growth"] = growth
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
