"""One event of a flow, as an agent tells it in a line of JSON, and the gaps in between.

The fields are a contract (docs/contracts.md, "Flow events"); what an observer adds are the destination's names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from egresslab.errors import ClusterError

IPAddress = IPv4Address | IPv6Address
SECOND = 1_000_000_000
LOST = "LOST"
"""What stands for `event` in a line about events that are missing."""


class Verdict(StrEnum):
    """What became of the packet that an event is about; Hubble's words."""

    FORWARDED = "FORWARDED"
    DROPPED = "DROPPED"


class Event(StrEnum):
    """What happened to the flow."""

    OPENED = "OPENED"
    CLOSED = "CLOSED"
    DROPPED = "DROPPED"


@dataclass(frozen=True, slots=True)
class Side:
    """An address and a port; for ICMP echo the pod's port is the identifier."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return endpoint(str(self.ip), self.port)


@dataclass(frozen=True, slots=True)
class Flow:
    """One event. `namespace` and `pod` are empty for an address of no known pod, `gateway` without one, `egress` is
    None where nothing was translated; `time_ns` counts from 1970 (UTC)."""

    time_ns: int
    node: str
    event: Event
    verdict: Verdict
    protocol: str
    namespace: str
    pod: str
    source: Side
    destination: Side
    egress: Side | None = None
    gateway: str = ""
    reason: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """So many events of one node are missing before the next one."""

    time_ns: int
    node: str
    number: int


Told = Flow | Lost


def endpoint(host: str, port: int) -> str:
    """Host and port in one text; port 0 is left out, an IPv6 address put in brackets (RFC 3986, section 3.2.2)."""
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(line: str | bytes) -> Iterator[Told]:
    """What one line tells: the gap before the event, if there is one, and the event.

    Raises `ClusterError` for what is no such line.
    """
    try:
        body = json.loads(line)
        time_ns, node, lost = parse_time(body["time"]), str(body["node"]), int(body.get("lost") or 0)
        if lost:
            yield Lost(time_ns, node, lost)
        if body["event"] != LOST:
            yield _flow(body, time_ns, node)
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"not a flow event: {error!r}", object="agent", value=str(line)[:200]) from error


def _flow(body: dict[str, Any], time_ns: int, node: str) -> Flow:
    pod, egress = body["pod"], body["egress"]
    return Flow(
        time_ns=time_ns,
        node=node,
        event=Event(body["event"]),
        verdict=Verdict(body["verdict"]),
        protocol=str(body["protocol"]),
        namespace=pod["namespace"] or "",
        pod=pod["name"] or "",
        source=_side(pod),
        destination=_side(body["destination"]),
        egress=_side(egress) if egress else None,
        gateway=body["gateway"] or "",
        reason=body["reason"] or "",
        names=tuple(body["destination"].get("names") or ()),
    )


def _side(body: dict[str, Any]) -> Side:
    return Side(ip_address(body["ip"]), int(body["port"]))


def as_json(told: Told) -> dict[str, Any]:
    """The line's object, with the destination's names; `parse` reads it back."""
    if isinstance(told, Lost):
        return {"time": rfc3339(told.time_ns), "node": told.node, "event": LOST, "lost": told.number}
    destination = {**_side_json(told.destination), "names": list(told.names)}
    return {
        "time": rfc3339(told.time_ns),
        "node": told.node,
        "event": told.event.value,
        "pod": {"namespace": told.namespace or None, "name": told.pod or None, **_side_json(told.source)},
        "destination": destination,
        "egress": _side_json(told.egress) if told.egress else None,
        "gateway": told.gateway or None,
        "protocol": told.protocol,
        "verdict": told.verdict.value,
        "reason": told.reason or None,
    }


def _side_json(side: Side) -> dict[str, Any]:
    return {"ip": str(side.ip), "port": side.port}


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 from RFC 3339 with up to nine digits after the second, which `datetime` has not."""
    whole, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if dot else ""
    moment = datetime.fromisoformat(whole + rest[len(digits) :])
    if moment.tzinfo is None:
        raise ValueError(f"no time zone: {text}")
    return int(moment.timestamp()) * SECOND + int(digits[:9].ljust(9, "0"))


def rfc3339(time_ns: int) -> str:
    """The reverse, in UTC."""
    moment = datetime.fromtimestamp(time_ns // SECOND, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % SECOND:09d}Z"
