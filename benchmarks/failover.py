"""Failover under traffic: how long nothing is answered, what becomes of connections, which addresses are seen.

One lab; each repeat is a whole drill: gateway, policy, traffic from a pod, the fault, and everything healed. With
`--peer keepalived` the same crash happens, in the same namespaces and between the same repeats, to keepalived with
conntrackd (Debian packages keepalived, conntrackd). Prints one JSON object; progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from _keepalived import OUTER, SETTINGS, Keepalived, Setting

from egresslab.api.resources import NAMESPACES, NODES, PODS
from egresslab.environments.base import Fault, FaultKind, Silent
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.environments.netns.paths import LabPaths
from egresslab.errors import EgresslabError
from egresslab.lab import nodes, waits
from egresslab.lab.client import Client
from egresslab.lab.drills.breakages import AGENT_LABEL, SYSTEM, Mode
from egresslab.lab.drills.drill import Drill, Kind, Plan, measure
from egresslab.lab.drills.families import Family
from egresslab.lab.drills.interrupts import uninterrupted
from egresslab.lab.drills.result import Measured
from egresslab.lab.drills.scene import Addressing
from egresslab.lab.drills.sender import Pattern, Sender


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: what is drilled, and the gap that is aimed at, median and worst, ms."""

    plan: dict[str, Any]
    target_p50_ms: float | None
    target_max_ms: float | None


ROWS = {
    "crash": Row({"mode": Mode.CRASH}, 300, 1000),
    "power": Row({"mode": Mode.POWER}, 300, 1000),
    "agent-kill": Row({"mode": Mode.AGENT_KILL}, 0, 50),
    "link-cut": Row({"mode": Mode.LINK_CUT}, 300, 1000),
    "api-cut": Row({"mode": Mode.API_CUT}, 0, 50),
    "partition": Row({"mode": Mode.PARTITION}, 500, 1000),
    "cluster-cut": Row({"mode": Mode.CLUSTER_CUT}, 500, 1000),
    "headless": Row({"mode": Mode.HEADLESS}, 300, 1000),
    "planned": Row({"kind": Kind.MAINTENANCE}, 0, 50),
    "primary-ip": Row({"mode": Mode.CRASH, "addressing": Addressing.PRIMARY_IP}, 300, 1000),
    "only-gateway": Row({"mode": Mode.CRASH, "candidates": 1}, None, None),
    "busy": Row({"mode": Mode.BUSY}, 0, 50),
}
"""`busy` is a run with every core busy, in which nothing may fail over; its length is `--busy-s`."""
NODES_BACK_S = 60.0
AGENTS_BACK_S = 180.0
PAUSE_S = 1.0


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Tally:
    """Results of one fault, repeat by repeat."""

    gaps: list[float] = field(default_factory=list)
    by_protocol: dict[str, list[float]] = field(default_factory=dict)
    control: list[float] = field(default_factory=list)
    kept: int = 0
    lost: int = 0
    reset_ms: list[float] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    strangers: int = 0
    owners: int = 0
    moves: int = 0
    open_gaps: int = 0
    broken: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, measured: Measured) -> None:
        """One more repeat."""
        self.gaps.append(measured.gap_ms)
        for protocol, loss in measured.losses.items():
            self.by_protocol.setdefault(protocol.value, []).append(loss.gap_ms)
        self.control.append(measured.control.gap_ms)
        self.kept += measured.connections.kept
        self.lost += measured.connections.lost
        self.waits_ms += measured.connections.stall_ms
        if measured.connections.slowest_reset_ms is not None:
            self.reset_ms.append(measured.connections.slowest_reset_ms)
        self.sources += [str(s.address) for s in measured.sources if str(s.address) not in self.sources]
        self.strangers += sum((measured.strangers or {}).values())
        self.owners = max(self.owners, measured.owners.at_once if measured.owners else 0)
        self.moves += max(0, len(measured.owners.reigns) - 1) if measured.owners else 0
        self.open_gaps += measured.gap is not None and not measured.gap.closed

    def to_json(self) -> dict[str, Any]:
        """The keys that every reader relies on, and more."""
        return {
            "repeats": len(self.gaps),
            "gap_ms": spread(self.gaps),
            "gap_ms_by_protocol": {name: spread(values) for name, values in self.by_protocol.items()},
            "gap_without_gateway_ms": spread(self.control),
            "never_recovered": self.open_gaps,
            "connections": {"kept": self.kept, "lost": self.lost},
            "connection_wait_ms": spread(self.waits_ms),
            "slowest_reset_ms": spread(self.reset_ms),
            "sources_seen": self.sources,
            "packets_from_strangers": self.strangers,
            "owners_at_once_max": self.owners,
            "moves": self.moves,
            "promises_broken": self.broken,
            "failed_repeats": self.failures,
            "gaps_ms": [round(gap, 1) for gap in self.gaps],
        }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median, 99th percentile and maximum; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"p50": round(statistics.median(ordered), 1), "p99": round(p99, 1), "max": round(ordered[-1], 1)}


class Bench:
    """One lab, and drills on it."""

    def __init__(self, environment: NetnsEnvironment, client: Client, pattern: Pattern, busy_s: float) -> None:
        self._environment, self._client, self._pattern, self._busy_s = environment, client, pattern, busy_s
        self._paths = LabPaths(environment.lab)
        self._healed = ("", 0.0)
        """The node that the peer crashed last, and when it was healed."""

    def drill(self, row: Row, tally: Tally) -> None:
        """One repeat of ours."""
        self._wait_agents()
        after_s = {"after_s": self._busy_s} if row.plan.get("mode") is Mode.BUSY else {}
        plan = Plan(pattern=self._pattern, **row.plan, **after_s)
        result = Drill(self._client, self._environment, plan, Silent()).run()
        tally.add(result.measured)
        tally.broken += [f"{claim.title}: {claim.observed}" for claim in result.claims if not claim.held]

    def peer(self, setting: Setting, tally: Tally) -> None:
        """One repeat of the peer."""
        known = {node.name: node for node in map(nodes.node, self._client.list(NODES)) if not node.control_plane}
        first, second, source = sorted(known)[:3]
        members = {name: str(known[name].address()) for name in (first, second)}
        with (
            self._namespace() as namespace,
            Keepalived(self._paths, setting, members, source, self._pattern.target),
        ):
            sender = Sender(self._client, namespace, self._pattern, node=source, labels={"app": "peer"})
            sender.start(timeout_s=30)
            time.sleep(1.0)
            since = time.time_ns()
            try:
                self._environment.break_(Fault(FaultKind.CRASH, first))
                time.sleep(max(3.0, 6 * setting.advertisement_s))
                measured = measure(sender.finish(), since)
            finally:
                with uninterrupted():
                    self._environment.heal(first)
                self._healed = (first, time.time())
        self._wait_ready()
        if [str(seen.address) for seen in measured.sources] != [OUTER]:
            raise RuntimeError(f"the peer's traffic took another way: {measured.sources}")
        tally.add(measured)

    @contextmanager
    def _namespace(self) -> Iterator[str]:
        name = f"peer-{secrets.token_hex(3)}"
        self._client.apply(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        try:
            yield name
        finally:
            self._client.delete(NAMESPACES, name)

            def gone() -> bool:
                return self._client.find(NAMESPACES, name) is None

            waits.wait_for(f"namespace {name} to be gone", gone, timeout_s=NODES_BACK_S)

    def _wait_agents(self) -> None:
        """The peer has no use for our agents and does not wait for them; whoever needs them does."""
        node, since = self._healed

        def back() -> bool:
            for body in self._client.list(PODS, SYSTEM, labelSelector=AGENT_LABEL):
                running = [status["state"].get("running") for status in body["status"]["containerStatuses"]]
                if not nodes.ready(body) or None in running:
                    return False
                begun = min(datetime.fromisoformat(state["startedAt"]).timestamp() for state in running)
                if body["spec"]["nodeName"] == node and begun < int(since):
                    return False
            return True

        waits.wait_for("every agent to be back", back, timeout_s=AGENTS_BACK_S)

    def _wait_ready(self) -> None:
        def ready() -> bool:
            return all(node.ready for node in map(nodes.node, self._client.list(NODES)))

        waits.wait_for("every node to be Ready", ready, timeout_s=NODES_BACK_S)


def repeat(what: str, count: int, runs: dict[str, Callable[[Tally], None]]) -> dict[str, Tally]:
    """Each run as many times as asked, in turns; a repeat that could not be done is told, not counted."""
    tallies = {name: Tally() for name in runs}
    for number in range(count):
        for name, run in runs.items():
            tally = tallies[name]
            try:
                run(tally)
            except KeyboardInterrupt:
                say(f"{what}: interrupted; what was measured so far is printed")
                return tallies
            except (EgresslabError, RuntimeError) as error:
                tally.failures.append(str(error).splitlines()[0])
                say(f"{what} {number + 1}/{count} {name}: FAILED: {error}")
                continue
            say(
                f"{what} {number + 1}/{count} {name}: gap {tally.gaps[-1]:.0f} ms (control {tally.control[-1]:.0f}), "
                f"kept {tally.kept}, lost {tally.lost}"
            )
            time.sleep(PAUSE_S)
    return tallies


def measure_fault(bench: Bench, fault: str, repeats: int, peer: str | None) -> dict[str, Any]:
    """All repeats of one fault, with the peer's between them if it is asked for."""
    row = ROWS[fault]
    runs: dict[str, Callable[[Tally], None]] = {"egresslab": lambda tally: bench.drill(row, tally)}
    if peer:
        for setting in SETTINGS:
            runs[setting.name] = lambda tally, setting=setting: bench.peer(setting, tally)  # type: ignore[misc]
    tallies = repeat(fault, repeats, runs)
    ours = tallies["egresslab"]
    found: dict[str, Any] = {"fault": fault, **ours.to_json()}
    found["target_ms"] = {"p50": row.target_p50_ms, "max": row.target_max_ms}
    if peer:
        others = {setting.name: tallies[setting.name] for setting in SETTINGS}
        found["peer"] = {"name": peer, **{name: tally.to_json() for name, tally in others.items()}}
        found["ratio_to_peer"] = {
            name: round(statistics.median(ours.gaps) / statistics.median(tally.gaps), 3)
            if tally.gaps and ours.gaps
            else None
            for name, tally in others.items()
        }
    return found


def main() -> None:
    """Bring a lab up, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", choices=[*ROWS, "all"], default="crash")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", choices=["keepalived"])
    parser.add_argument("--family", type=Family, choices=list(Family), default=Family.IPV4)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--busy-s", type=float, default=60.0, help="length of each run of the row `busy`")
    parser.add_argument("--lab", default="bench-failover")
    parser.add_argument("--keep", action="store_true", help="use a lab that is there, and leave it up")
    options = parser.parse_args()
    if options.peer and options.family is not Family.IPV4:
        parser.error("--peer is set up for IPv4 only")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pattern = Pattern.over(options.family, connections=options.connections, connection_interval_ms=200.0)
    environment = NetnsEnvironment(options.lab)
    try:
        environment.create(Silent())
        client = Client(environment.kubeconfig())
        bench = Bench(environment, client, pattern, options.busy_s)
        faults = list(ROWS) if options.fault == "all" else [options.fault]
        rows = {
            fault: measure_fault(bench, fault, options.repeats, options.peer if fault == "crash" else None)
            for fault in faults
        }
        client.close()
        found = {"rows": rows} if options.fault == "all" else rows[options.fault]
        machine = {"kernel": platform.release(), "cores": os.cpu_count(), "connections_each": options.connections}
        print(json.dumps({**found, "family": options.family, **machine}))
    finally:
        if not options.keep:
            environment.delete(Silent())


if __name__ == "__main__":
    main()
