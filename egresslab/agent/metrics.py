"""What an agent's metrics say: read from the kernel's counters and maps, the event stream, and the voter's report."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Set
from importlib.metadata import version

from egresslab.agent.exposition import Declaration, Kind, Samples
from egresslab.agent.failovers import FailoverCounts
from egresslab.agent.flowstream import FlowStream
from egresslab.api.connection import Api
from egresslab.datapath.census import Census
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.values import Event, FlowKind, GatewaySlot, IPAddress, NodeConfig, Protocol, Reason
from egresslab.voter.files import Report

PORT = 9880

BUILD = Declaration("egresslab_build_info", Kind.GAUGE, ("version", "component"), "Always 1.")
API_ERRORS = Declaration(
    "egresslab_api_errors_total",
    Kind.COUNTER,
    ("reason",),
    "Error answers of the Kubernetes API by reason, and requests without an answer (Unreachable).",
)
PACKETS = Declaration(
    "egresslab_packets_total",
    Kind.COUNTER,
    ("outcome",),
    "Packets that went on, by what became of them; a GSO packet counts once.",
)
BYTES = Declaration("egresslab_bytes_total", Kind.COUNTER, ("outcome",), "Bytes of these packets, as frames.")
DROPPED_PACKETS = Declaration(
    "egresslab_dropped_packets_total", Kind.COUNTER, ("reason",), "Packets that were dropped, by reason."
)
DROPPED_BYTES = Declaration("egresslab_dropped_bytes_total", Kind.COUNTER, ("reason",), "Bytes of these packets.")
FLOWS = Declaration("egresslab_flows", Kind.GAUGE, ("kind",), "Entries of the flow table by kind.")
FLOW_EVENTS = Declaration("egresslab_flow_events_total", Kind.COUNTER, ("event",), "Flow events that this agent read.")
FLOW_EVENTS_LOST = Declaration(
    "egresslab_flow_events_lost_total",
    Kind.COUNTER,
    (),
    "Flow events that the kernel did not keep: no room, or more drops in a second than are told one by one.",
)
PORTS_USED = Declaration(
    "egresslab_source_ports_used", Kind.GAUGE, ("egress_ip", "protocol"), "Source ports in use on an egress IP."
)
PORTS_ONE_DESTINATION = Declaration(
    "egresslab_source_ports_one_destination",
    Kind.GAUGE,
    ("egress_ip", "protocol"),
    "Source ports in use towards the one destination (address and port) that uses most.",
)
PORTS_AVAILABLE = Declaration(
    "egresslab_source_ports_available",
    Kind.GAUGE,
    (),
    "Source ports that one egress IP has for each protocol and destination.",
)
MAP_ENTRIES = Declaration("egresslab_map_entries", Kind.GAUGE, ("map",), "Entries in a map.")
MAP_CAPACITY = Declaration("egresslab_map_capacity", Kind.GAUGE, ("map",), "Entries for which a map has room.")
REFUSED = Declaration(
    "egresslab_refused_addresses",
    Kind.GAUGE,
    (),
    "Pod addresses whose entries do not fit into the policy map; these pods send nothing outside.",
)
SLOTS = Declaration(
    "egresslab_gateway_slots",
    Kind.GAUGE,
    ("gateway",),
    "Gateway slots by where their gateway is: here, elsewhere, none, or with a lease.",
)
VOTER_UP = Declaration("egresslab_voter_up", Kind.GAUGE, (), "Whether this node's voter reports.")
VOTER_QUORUM = Declaration("egresslab_voter_quorum", Kind.GAUGE, (), "Whether it hears a majority of the voters.")
VOTER_LATE = Declaration(
    "egresslab_voter_late_seconds", Kind.GAUGE, (), "Its latest wake-up of the last minute: lateness is an outage."
)
LEASE_HELD = Declaration("egresslab_lease_held", Kind.GAUGE, ("group",), "Whether this node holds the group's lease.")
CONFLICTS = Declaration(
    "egresslab_address_conflicts",
    Kind.GAUGE,
    ("group", "address"),
    "Others, no candidates, that claimed a virtual address.",
)
FAILOVERS = Declaration(
    "egresslab_failovers_total", Kind.COUNTER, ("group", "cause"), "Moves of a group's lease to this node."
)
OUTAGE = Declaration(
    "egresslab_failover_outage_seconds_total",
    Kind.COUNTER,
    ("group",),
    "Time in which nobody held the lease, summed over the moves to this node.",
)
LAST_OUTAGE = Declaration(
    "egresslab_failover_last_outage_seconds",
    Kind.GAUGE,
    ("group",),
    "The same for the last move, as far as it is known.",
)
NODE_ALIVE = Declaration(
    "egresslab_gateway_alive",
    Kind.GAUGE,
    ("gateway",),
    "Whether a gateway node is alive, as a majority of voters says.",
)
PROBE_RTT = Declaration(
    "egresslab_probe_rtt_seconds", Kind.GAUGE, ("gateway",), "Round trip of the last answered probe from this node."
)

DECLARED = (
    BUILD,
    PACKETS,
    BYTES,
    DROPPED_PACKETS,
    DROPPED_BYTES,
    FLOWS,
    FLOW_EVENTS,
    FLOW_EVENTS_LOST,
    PORTS_USED,
    PORTS_ONE_DESTINATION,
    PORTS_AVAILABLE,
    MAP_ENTRIES,
    MAP_CAPACITY,
    REFUSED,
    SLOTS,
    VOTER_UP,
    VOTER_QUORUM,
    VOTER_LATE,
    LEASE_HELD,
    CONFLICTS,
    FAILOVERS,
    OUTAGE,
    LAST_OUTAGE,
    NODE_ALIVE,
    PROBE_RTT,
    API_ERRORS,
)


class AgentMetrics:
    """Reads everything anew for each scrape."""

    def __init__(
        self,
        api: Api,
        datapath: Datapath,
        stream: FlowStream,
        census: Census,
        failovers: FailoverCounts,
        incomplete: Callable[[], Set[IPAddress]],
    ) -> None:
        """`incomplete` tells the pod addresses whose entries did not fit."""
        self._api = api
        self._datapath = datapath
        self._stream = stream
        self._census = census
        self._failovers = failovers
        self._incomplete = incomplete
        self._version = version("egresslab")
        self._turn = asyncio.Lock()

    async def read(self) -> Samples:
        """Everything that is declared."""
        async with self._turn:
            return {
                BUILD: {(self._version, "agent"): 1},
                **self._packets(),
                **await self._maps(),
                FLOW_EVENTS: {(event.name,): self._stream.told[event] for event in Event},
                FLOW_EVENTS_LOST: {(): self._stream.lost},
                REFUSED: {(): len(self._incomplete())},
                SLOTS: self._slots(),
                **_of_report(self._failovers.report),
                **_of_failovers(self._failovers),
                API_ERRORS: {(reason,): number for reason, number in self._api.errors.items()},
            }

    def _packets(self) -> Samples:
        packets: Counter[Reason] = Counter(dict.fromkeys(Reason, 0))
        size: Counter[Reason] = Counter(dict.fromkeys(Reason, 0))
        for (_, reason), count in self._datapath.counters.read().items():
            packets[reason] += count.packets
            size[reason] += count.bytes
        went_on = [reason for reason in Reason if not reason.dropped and reason is not Reason.NONE]
        dropped = [reason for reason in Reason if reason.dropped]
        return {
            PACKETS: {(reason.name,): packets[reason] for reason in went_on},
            BYTES: {(reason.name,): size[reason] for reason in went_on},
            DROPPED_PACKETS: {(reason.name,): packets[reason] for reason in dropped},
            DROPPED_BYTES: {(reason.name,): size[reason] for reason in dropped},
        }

    async def _maps(self) -> Samples:
        counted = await self._census.take()
        low, high = NodeConfig().ports
        ports = {(str(address), _protocol(number)): held for (address, number), held in counted.ports.items()}
        return {
            FLOWS: {(kind.name,): counted.flows[kind] for kind in FlowKind},
            PORTS_USED: {labels: held.used for labels, held in ports.items()},
            PORTS_ONE_DESTINATION: {labels: held.one_destination for labels, held in ports.items()},
            PORTS_AVAILABLE: {(): high - low + 1},
            MAP_ENTRIES: {(name,): fill.entries for name, fill in counted.maps.items()},
            MAP_CAPACITY: {(name,): fill.capacity for name, fill in counted.maps.items()},
        }

    def _slots(self) -> dict[tuple[str, ...], float]:
        found = dict.fromkeys(("here", "elsewhere", "leased", "none"), 0)
        for _, slot in self._datapath.slots.items():
            found[_where(slot)] += 1
        return {(where,): number for where, number in found.items()}


def _where(slot: GatewaySlot) -> str:
    if slot.lease:
        return "leased"
    return "here" if slot.local else "none" if slot.endpoint is None else "elsewhere"


def _of_report(report: Report | None) -> Samples:
    """What the voter says; without a voter only that."""
    if report is None:
        return {VOTER_UP: {(): 0}}
    return {
        VOTER_UP: {(): 1},
        VOTER_QUORUM: {(): report.quorum},
        VOTER_LATE: {(): report.late_ms / 1000},
        LEASE_HELD: {(lease.key,): lease.held for lease in report.leases},
        CONFLICTS: {
            labels: number
            for lease in report.leases
            for labels, number in Counter((lease.key, str(each.address)) for each in lease.conflicts).items()
        },
        NODE_ALIVE: {(node.name,): node.alive for node in report.nodes if node.alive is not None},
        PROBE_RTT: {(node.name,): node.rtt_us / 1e6 for node in report.nodes if node.rtt_us is not None},
    }


def _of_failovers(failovers: FailoverCounts) -> Samples:
    return {
        FAILOVERS: {(group, cause.value): number for (group, cause), number in failovers.moves.items()},
        OUTAGE: {(group,): seconds for group, seconds in failovers.outage_s.items()},
        LAST_OUTAGE: {(group,): seconds for group, seconds in failovers.last_outage_s.items()},
    }


def _protocol(number: int) -> str:
    try:
        return Protocol(number).name
    except ValueError:
        return str(number)
