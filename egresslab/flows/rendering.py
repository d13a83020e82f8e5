"""Flows as text: a table for people, a line for each, our JSON, and JSON with Hubble's field names for its tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, tzinfo
from enum import StrEnum
from typing import Any

from egresslab.flows.flow import SECOND, Event, Flow, Lost, Told, Verdict, as_json, endpoint, rfc3339

COLUMNS = ("TIME", "NODE", "POD", "PROTOCOL", "DESTINATION", "EGRESS IP", "GATEWAY", "VERDICT", "EVENT")
ROOM = (12, 12, 22, 8, 30, 18, 12, 9, 0)
"""Widths that a table begins with; a column grows when something longer comes, so that nothing is ever cut."""
GAP = "   "
NOTHING = "-"

HUBBLE_REASONS = {
    "INVALID_SOURCE": (132, "INVALID_SOURCE_IP"),
    "INVALID_PACKET": (134, "INVALID_PACKET_DROPPED"),
    "UNKNOWN_PROTOCOL": (142, "UNKNOWN_L4_PROTOCOL"),
    "EXTENSION_HEADER": (156, "INVALID_IPV6_EXTENSION_HEADER"),
    "NO_FREE_PORT": (167, "NO_MAPPING_FOR_NAT_MASQUERADE"),
    "UNSUPPORTED_ICMP": (168, "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE"),
    "NO_ROUTE": (169, "FIB_LOOKUP_FAILED"),
    "FRAGMENT_WITHOUT_FIRST": (175, "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND"),
    "NO_GATEWAY": (194, "NO_EGRESS_GATEWAY"),
    "HOP_LIMIT": (196, "TTL_EXCEEDED"),
    "NO_EGRESS_IP": (204, "DROP_NO_EGRESS_IP"),
}
"""Our reasons that Cilium has too, with its number and name (flow.proto, DropReason)."""
TRACE, DROP = 4, 1
"""Cilium's types of monitor events (flow.proto, event_type)."""
ECHO_REQUEST = {"ICMP": ("ICMPv4", 8), "ICMPV6": ("ICMPv6", 128)}


class Form(StrEnum):
    """How flows are written."""

    TABLE = "table"
    COMPACT = "compact"
    JSON = "json"
    JSONPB = "jsonpb"


def writer(form: Form, known: Sequence[Told] | None = None, zone: tzinfo | None = None) -> Callable[[Told], list[str]]:
    """A function from what is told to lines of text; one for each listing, as a table remembers its widths.

    `known`: what will be told, if that is all known already; then a table is as narrow as it can be. `zone` is where
    people's times are shown (None: here)."""
    if form is Form.TABLE:
        return TableLines(zone, known)
    if form is Form.COMPACT:
        return lambda told: [compact(told, zone)]
    if form is Form.JSON:
        return lambda told: [json.dumps(as_json(told), separators=(",", ":"))]
    return lambda told: [json.dumps(hubble(told), separators=(",", ":"))]


class TableLines:
    """A table that grows downwards."""

    def __init__(self, zone: tzinfo | None = None, known: Sequence[Told] | None = None) -> None:
        self._zone = zone
        room = ROOM if known is None else (0,) * len(COLUMNS)
        rows = [cells(each, zone) for each in known or () if isinstance(each, Flow)]
        self._widths = [max(room[at], *(len(row[at]) for row in (COLUMNS, *rows))) for at in range(len(COLUMNS))]
        self._begun = False

    def __call__(self, told: Told) -> list[str]:
        """The heading first, and then a line for each."""
        heading = [] if self._begun else [self._line(COLUMNS)]
        self._begun = True
        if isinstance(told, Lost):
            return [*heading, lost_line(told)]
        return [*heading, self._line(cells(told, self._zone))]

    def _line(self, row: Sequence[str]) -> str:
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        return GAP.join(cell.ljust(width) for cell, width in zip(row, self._widths, strict=True)).rstrip()


def cells(flow: Flow, zone: tzinfo | None = None) -> tuple[str, ...]:
    """One row below `COLUMNS`."""
    return (
        clock(flow.time_ns, zone),
        flow.node,
        sender(flow),
        flow.protocol,
        destination(flow),
        str(flow.egress) if flow.egress else NOTHING,
        flow.gateway or NOTHING,
        flow.verdict.value,
        flow.reason or flow.event.value,
    )


def sender(flow: Flow) -> str:
    """The pod, by name if it has one, and its port."""
    return endpoint(f"{flow.namespace}/{flow.pod}", flow.source.port) if flow.pod else str(flow.source)


def destination(flow: Flow) -> str:
    """Address and port, and the first of its names."""
    return f"{flow.destination} ({flow.names[0]})" if flow.names else str(flow.destination)


def clock(time_ns: int, zone: tzinfo | None = None) -> str:
    """The time of day, in milliseconds."""
    moment = datetime.fromtimestamp(time_ns // SECOND).astimezone(zone)
    return f"{moment:%H:%M:%S}.{time_ns % SECOND // 1_000_000:03d}"


def lost_line(lost: Lost) -> str:
    """Said where a flow would have been."""
    return f"EVENTS LOST: {lost.node}: {lost.number}"


def compact(told: Told, zone: tzinfo | None = None) -> str:
    """One line, in the order in which Hubble writes it."""
    if isinstance(told, Lost):
        return lost_line(told)
    day = f"{datetime.fromtimestamp(told.time_ns // SECOND).astimezone(zone):%b %d}"
    as_whom = f" as {told.egress}" if told.egress else ""
    via = f" via {told.gateway}" if told.gateway else ""
    return (
        f"{day} {clock(told.time_ns, zone)} [{told.node}]: {sender(told)} -> {destination(told)}{via}{as_whom}"
        f" {told.reason or told.event} {told.verdict} ({told.protocol})"
    )


def hubble(told: Told) -> dict[str, Any]:
    """What `hubble observe -o jsonpb` would call it; what is ours alone stands in `egress_gateway`."""
    frame = {"node_name": told.node, "time": rfc3339(told.time_ns)}
    if isinstance(told, Lost):
        return {"lost_events": {"source": "HUBBLE_RING_BUFFER", "num_events_lost": str(told.number)}, **frame}
    source: dict[str, Any] = {"cluster_name": "default"}
    if told.pod:
        source |= {
            "namespace": told.namespace,
            "pod_name": told.pod,
            "labels": [f"k8s:io.kubernetes.pod.namespace={told.namespace}"],
        }
    ip = {"source": str(told.source.ip), "destination": str(told.destination.ip)}
    if told.egress:
        ip["source_xlated"] = str(told.egress.ip)
    dropped = told.verdict is Verdict.DROPPED
    flow: dict[str, Any] = {
        "time": frame["time"],
        "verdict": told.verdict.value,
        "IP": {**ip, "ipVersion": f"IPv{told.source.ip.version}"},
        "l4": _layer4(told),
        "source": source,
        "destination": {"identity": 2, "labels": ["reserved:world"]},
        "destination_names": list(told.names),
        "Type": "L3_L4",
        "node_name": told.node,
        "event_type": {"type": DROP if dropped else TRACE},
        "traffic_direction": "EGRESS",
        "is_reply": False,
        "egress_gateway": {
            "node_name": told.gateway,
            "source_port": told.egress.port if told.egress else 0,
            "event": told.event.value,
        },
        "Summary": f"{told.protocol} {told.event}",
    }
    if dropped:
        number, name = HUBBLE_REASONS.get(told.reason, (0, told.reason))
        flow |= {"drop_reason": number, "drop_reason_desc": name}
    return {"flow": flow, **frame}


def _layer4(flow: Flow) -> dict[str, Any]:
    if flow.protocol in ("TCP", "UDP"):
        ports: dict[str, Any] = {"source_port": flow.source.port, "destination_port": flow.destination.port}
        if flow.protocol == "TCP" and flow.event is Event.OPENED:
            ports["flags"] = {"SYN": True}
        return {flow.protocol: ports}
    if flow.protocol in ECHO_REQUEST:
        name, kind = ECHO_REQUEST[flow.protocol]
        return {name: {"type": kind}}
    return {}
