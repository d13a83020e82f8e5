"""A gateway's view in the words of its dialect's status. Pure; conditions get their times where they are written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from egresslab.operator.conditions import Condition, Truth
from egresslab.operator.gateways import Candidate, GatewayView, Role
from egresslab.policy.model import Dialect
from egresslab.voter.files import Cause, Failover

READY, ANNOUNCED, CONFLICT = "Ready", "Announced", "AddressConflict"

CAUSES = {
    Cause.FIRST: "FirstHolder",
    Cause.LOST: "GatewayLost",
    Cause.UNFIT: "NoLongerEligible",
    Cause.LINK: "LinkLost",
    Cause.FAILBACK: "Failback",
}
PLANNED = frozenset({Cause.UNFIT, Cause.FAILBACK})


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """Fields of a status (None: to be absent) and its conditions."""

    fields: dict[str, Any]
    conditions: tuple[Condition, ...]


def status_of_refused(dialect: Dialect, message: str) -> GatewayStatus:
    """Of a gateway that could not be understood and of which no earlier version is in force."""
    fields: dict[str, Any] = {active_field(dialect): None, "readyNodes": 0}
    if dialect is Dialect.EGRESSLAB:
        fields["candidates"] = []
    reason = "ElectionFailed" if dialect is Dialect.DECKHOUSE else "Refused"
    return GatewayStatus(fields, (Condition(READY, Truth.FALSE, reason, message),))


def active_field(dialect: Dialect) -> str:
    """What the dialect calls the active node in a status."""
    return "activeNodeName" if dialect is Dialect.DECKHOUSE else "activeNode"


def status_of_view(view: GatewayView) -> GatewayStatus:
    """The status in the gateway's own dialect."""
    fields: dict[str, Any] = {active_field(view.key.dialect): view.active, "readyNodes": view.ready_nodes}
    if view.key.dialect is Dialect.DECKHOUSE:
        return GatewayStatus(fields, (_deckhouse(view),))
    fields["lastFailover"] = failover_field(view.failover) if view.failover is not None else None
    fields["candidates"] = [
        {"node": c.node, "role": str(c.role), **({"reason": c.reason} if c.reason else {})} for c in view.candidates
    ]
    conditions = [_ready(view)]
    if view.group.virtual_addresses:
        conditions += [_announced(view), _conflict(view)]
    return GatewayStatus(fields, tuple(conditions))


def failover_field(failover: Failover) -> dict[str, Any]:
    """`status.lastFailover`."""
    moment = datetime.fromtimestamp(failover.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    found: dict[str, Any] = {"time": moment, "from": failover.origin or "", "to": failover.target}
    found["cause"] = CAUSES[failover.cause]
    if failover.outage_ms is not None:
        found["outageMilliseconds"] = round(failover.outage_ms)
    return found


def described(view: GatewayView) -> str:
    """Every candidate in a line: who is active, who stands by, and why each of the others cannot."""
    parts = [f"{candidate.node} {_role_in_words(view, candidate)}" for candidate in view.candidates]
    text = "; ".join(parts) if parts else "no node matches the gateway's nodeSelector"
    return f"{text}; the present version is not in force: {view.refused}" if view.refused else text


def _role_in_words(view: GatewayView, candidate: Candidate) -> str:
    match candidate.role:
        case Role.ACTIVE if candidate.reason:
            return f"is active, but {candidate.reason}"
        case Role.ACTIVE:
            return "is active"
        case Role.STANDBY:
            return "stands by"
        case _:
            return candidate.reason


def _ready(view: GatewayView) -> Condition:
    text = described(view)
    if not view.group.standby:
        ready = view.ready_nodes > 0
        return Condition(READY, Truth.of(ready), "NodesReady" if ready else "NoGateway", text)
    if view.active is not None:
        return Condition(READY, Truth.TRUE, "HolderObserved", text)
    if not view.known:
        return Condition(READY, Truth.UNKNOWN, "NotObserved", _unobserved(view))
    return Condition(READY, Truth.FALSE, "NoHolder" if view.ready_nodes else "NoGateway", text)


def _announced(view: GatewayView) -> Condition:
    addresses = ", ".join(map(str, view.group.virtual_addresses))
    if view.active is None:
        status = Truth.FALSE if view.known else Truth.UNKNOWN
        return Condition(ANNOUNCED, status, "NoHolder" if view.known else "NotObserved", f"{addresses}: no active node")
    if view.silent:
        return Condition(ANNOUNCED, Truth.FALSE, "Silent", f"{view.active} does not answer for {addresses}")
    return Condition(ANNOUNCED, Truth.TRUE, "Answered", f"{view.active} answers for {addresses}")


def _conflict(view: GatewayView) -> Condition:
    if view.conflicts:
        return Condition(CONFLICT, Truth.TRUE, "ClaimedByOthers", claims_in_words(view))
    return Condition(CONFLICT, Truth.FALSE, "NoOtherClaim", "nobody else claims the addresses")


def claims_in_words(view: GatewayView) -> str:
    """Who claims which address where."""
    return "; ".join(f"{claim.mac} claims {claim.address} on {claim.interface}" for claim in view.conflicts)


def _deckhouse(view: GatewayView) -> Condition:
    """The reasons are Deckhouse's own; the statuses are what was observed."""
    text = described(view)
    if view.conflicts:
        text = f"{claims_in_words(view)}; {text}"
    if view.active is None:
        if not view.known:
            return Condition(READY, Truth.UNKNOWN, "ElectionFailed", _unobserved(view))
        return Condition(READY, Truth.FALSE, "ElectionFailed", text)
    if not view.group.virtual_addresses:
        return Condition(READY, Truth.TRUE, "ElectionSucceed", text)
    if view.silent:
        return Condition(READY, Truth.FALSE, "VirtualIPAnnouncingFailed", text)
    return Condition(READY, Truth.TRUE, "ElectionSucceedAndVirtualIPAnnounced", text)


def _unobserved(view: GatewayView) -> str:
    return f"too few of the candidates' and voters' agents answer to tell who is active; {described(view)}"
