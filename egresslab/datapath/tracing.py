"""What would become of a packet: every lookup on its way through this node, the kernel's verdict, what comes next.

The verdict is the kernel's own, of one frame run through the pinned program (`BPF_PROG_TEST_RUN`); the lookups beside
it are read from the same maps. The frame goes nowhere, is neither counted nor recorded, and the flow that it opens is
taken out again. The calling process must be in the node's network namespace.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egresslab.datapath.flowtable import other_half
from egresslab.datapath.frames import ACK, SYN, build, describe
from egresslab.datapath.inspection import PinnedMaps, pinned_maps
from egresslab.datapath.libbpf import Libbpf, get_pinned
from egresslab.datapath.trial import MARK_TRIAL, Outcome, run
from egresslab.datapath.values import (
    Flow,
    FlowKey,
    FlowKind,
    GatewaySlot,
    IPAddress,
    PolicyEntry,
    Program,
    Protocol,
    Reason,
    Verdict,
)
from egresslab.datapath.verdicts import MEANING
from egresslab.errors import DatapathError

FIRST_FREE_PORT, PORTS = 49_152, 16_384
"""Where a source port that no flow uses is looked for (RFC 6335: dynamic ports)."""
NONE_FOUND = "nothing"


@dataclass(frozen=True, slots=True)
class Step:
    """One lookup: which map, what was asked, what it gave, in words."""

    lookup: str
    key: str
    found: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A header field that the program changed."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A packet's way through one program of this node. `steps` in the order in which the program asks, up to the one
    that decided; `existing`: whether a flow was there already, which the packet then was a part of."""

    program: Program
    source: IPAddress
    source_port: int
    destination: IPAddress
    port: int
    protocol: Protocol
    existing: bool
    steps: tuple[Step, ...]
    verdict: Verdict
    reason: Reason
    rewritten: tuple[Rewrite, ...]
    meaning: str
    next: str


def trace(
    pin_dir: Path, pod: IPAddress, destination: IPAddress, protocol: Protocol, port: int, source_port: int | None = None
) -> Trace:
    """Follow one packet of `pod` from here: through `from_pod` where the pod lives here, else through `from_overlay`,
    as if its node had sent it here. Without `source_port` it begins a new flow; with that of an existing flow it is
    that flow's next packet, and does to it what such a packet does (its time and flags, or another slot).

    Raises DatapathError when the families differ, when nothing is pinned, or when no endpoint here has the address.
    """
    if pod.version != destination.version:
        raise DatapathError("of another family than the pod's address", object=f"pod {pod}", value=str(destination))
    with pinned_maps(pin_dir) as maps:
        endpoint = maps.endpoints.get(pod)
        if endpoint is None:
            raise DatapathError(
                "this node knows no pod of that address",
                object=f"pod {pod}",
                fix="kubectl get pods -A -o wide; run this on the pod's node",
            )
        program = Program.FROM_POD if endpoint.ifindex else Program.FROM_OVERLAY
        key = _flow_key(maps, pod, destination, protocol, port, source_port)
        before = maps.nat.get(key)
        flags = ACK if before is not None else SYN
        frame = build(pod, destination, protocol, key.local_port, port, data=b"egresslab", tcp_flags=flags)
        steps = tuple(_steps(maps, key, before))
        outcome = _run(pin_dir, program, frame, endpoint.ifindex)
        opened = maps.nat.get(key)
        if before is None and opened is not None:
            _forget(maps, opened)
        reason = outcome.reason
        if reason is None:
            raise DatapathError(
                "the programs are of a version that cannot be traced", object=str(pin_dir), fix="restart the agent"
            )
        slot = opened.slot if opened is not None else _policy_slot(maps.policy.get(pod, destination))
        return Trace(
            program,
            pod,
            key.local_port,
            destination,
            port,
            protocol,
            before is not None,
            steps[: _decided_after(reason, steps)],
            outcome.verdict,
            reason,
            tuple(_rewrites(frame, outcome.frame)),
            MEANING[reason],
            _next(maps, program, reason, slot, opened),
        )


def at(address: IPAddress, port: int) -> str:
    """Address and port as one word (RFC 5952, section 6)."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _flow_key(
    maps: PinnedMaps, pod: IPAddress, destination: IPAddress, protocol: Protocol, port: int, source_port: int | None
) -> FlowKey:
    remote_port = 0 if protocol in (Protocol.ICMP, Protocol.ICMPV6) else port
    if source_port is not None:
        return FlowKey(pod, source_port, destination, remote_port, protocol)
    start = secrets.randbelow(PORTS)
    for number in range(PORTS):
        key = FlowKey(pod, FIRST_FREE_PORT + (start + number) % PORTS, destination, remote_port, protocol)
        if maps.nat.get(key) is None:
            return key
    raise DatapathError("every dynamic port of the pod is in use towards there", object=f"pod {pod}")


def _run(pin_dir: Path, program: Program, frame: bytes, ifindex: int) -> Outcome:
    libbpf, path = Libbpf(), pin_dir / "programs" / program.name.lower()
    fd = get_pinned(libbpf, path)
    if fd is None:
        raise DatapathError("no such program is pinned", object=str(path), fix="start the agent")
    try:
        return run(libbpf, fd, program, frame, ifindex=ifindex, mark=MARK_TRIAL)
    finally:
        os.close(fd)


def _forget(maps: PinnedMaps, opened: Flow) -> None:
    half = other_half(opened)
    maps.nat.delete([opened.key] if half is None else [opened.key, half])


def _steps(maps: PinnedMaps, key: FlowKey, flow: Flow | None) -> Iterator[Step]:
    """Every lookup that the program may make, in its order."""
    inside = next((network for network in maps.cluster_cidrs.items() if key.remote in network), None)
    yield Step("cluster_cidrs", str(key.remote), f"inside {inside}" if inside else "outside the cluster")
    endpoint = maps.endpoints.get(key.local)
    if endpoint is not None:
        where = f"link {_link(endpoint.ifindex)}" if endpoint.ifindex else f"on node {endpoint.node}"
        ready = ("; ready" if endpoint.ready else "; not ready") if endpoint.ifindex else ""
        yield Step("endpoints", str(key.local), where + ready)
    tuple_ = f"{key.protocol.name} {at(key.local, key.local_port)} {at(key.remote, key.remote_port)}"
    yield Step("nat", tuple_, NONE_FOUND if flow is None else _flow_words(flow))
    entry = _longest_entry(maps, key)
    if entry is None:
        yield Step("egress_policy", f"{key.local} {key.remote}", NONE_FOUND)
    else:
        excluded = ", excluded" if entry.excluded else ""
        yield Step("egress_policy", f"{key.local} {key.remote}", f"{entry.destination}: slot {entry.slot}{excluded}")
    pinned = flow is not None and flow.kind in (FlowKind.STEERED, FlowKind.TRANSLATED)
    number = flow.slot if flow is not None and pinned else _policy_slot(entry)
    if number is not None:
        yield from _slot_steps(maps, number)


def _slot_steps(maps: PinnedMaps, number: int) -> Iterator[Step]:
    slot = maps.slots.get(number)
    yield Step("gateway_slots", str(number), NONE_FOUND if slot is None else _slot_words(slot))
    if slot is None or not slot.lease:
        return
    holder, lease = maps.leases.holder(slot.lease), maps.leases.lease(slot.lease)
    held_by = "nobody" if holder is None else f"{holder.endpoint}{' (this node)' if holder.local else ''}"
    yield Step("holders", str(slot.lease), held_by + (f", epoch {holder.epoch}" if holder else ""))
    if holder is not None and holder.local:
        left_ms = 0 if lease is None else (lease.holds_until_ns - time.clock_gettime_ns(time.CLOCK_MONOTONIC)) // 10**6
        yield Step("leases", str(slot.lease), f"held for {left_ms} ms more" if left_ms > 0 else "has ended")


def _slot_words(slot: GatewaySlot) -> str:
    words = []
    if slot.lease:
        words.append(f"whoever holds lease {slot.lease}")
    elif slot.endpoint is None:
        words.append("no gateway, fails open" if slot.open else "no gateway")
    else:
        words.append(f"gateway {slot.endpoint}" + (" (this node)" if slot.local else ""))
    if slot.sources:
        words.append("source " + " ".join(map(str, slot.sources)))
    if slot.ifindex:
        words.append(f"link {_link(slot.ifindex)}")
    return ", ".join(words)


def _flow_words(flow: Flow) -> str:
    words = f"{flow.kind.name}, slot {flow.slot}"
    return words if flow.address is None else f"{words}, as {at(flow.address, flow.port)}"


def _longest_entry(maps: PinnedMaps, key: FlowKey) -> PolicyEntry | None:
    matching = [e for e in maps.policy.items() if e.source == key.local and key.remote in e.destination]
    return max(matching, key=lambda entry: entry.destination.prefixlen, default=None)


def _policy_slot(entry: PolicyEntry | None) -> int | None:
    return None if entry is None or entry.excluded else entry.slot


def _link(ifindex: int) -> str:
    try:
        return f"{socket.if_indextoname(ifindex)} ({ifindex})"
    except OSError:
        return str(ifindex)


LAST_STEP = {
    Reason.IN_CLUSTER: "cluster_cidrs",
    Reason.NOT_FOR_OVERLAY: "cluster_cidrs",
    Reason.INVALID_SOURCE: "endpoints",
    Reason.NOT_READY: "endpoints",
    Reason.INBOUND: "nat",
    Reason.NO_ENTRY: "egress_policy",
    Reason.EXCLUDED: "egress_policy",
}


def _decided_after(reason: Reason, steps: tuple[Step, ...]) -> int:
    """How many of the steps were taken."""
    last = LAST_STEP.get(reason)
    return next((count for count, step in enumerate(steps, 1) if step.lookup == last), len(steps))


def _rewrites(before: bytes, after: bytes) -> Iterator[Rewrite]:
    old, new = describe(before), describe(after)
    for field in [*old, *(name for name in new if name not in old)]:
        if old.get(field) != new.get(field):
            yield Rewrite(field, old.get(field, ""), new.get(field, ""))


def _next(maps: PinnedMaps, program: Program, reason: Reason, number: int | None, opened: Flow | None) -> str:
    """Where the packet goes from here."""
    slot = None if number is None else maps.slots.get(number)
    if reason is Reason.STEERED and slot is not None:
        holder = maps.leases.holder(slot.lease) if slot.lease else None
        gateway = holder.endpoint if holder is not None else slot.endpoint
        return (
            f"through the tunnel to {gateway}, whose from_overlay translates it to the egress address and sends it out;"
            " the same command in that node's agent shows how"
        )
    if reason is Reason.TRANSLATED and opened is not None and opened.address is not None:
        way = f"link {_link(slot.ifindex)}" if slot is not None and slot.ifindex else "the routing table's way"
        back = "to the pod" if program is Program.FROM_POD else f"through the tunnel to {opened.node}"
        return f"out by {way}; outside sees {at(opened.address, opened.port)}; replies go back {back}"
    if reason in (Reason.TOO_BIG, Reason.TIME_EXCEEDED, Reason.RESET):
        return "an answer to the pod; the packet itself goes no further"
    if reason.dropped:
        return "nowhere: it is dropped here"
    return "on through the node's own network stack, as if no policy existed"
