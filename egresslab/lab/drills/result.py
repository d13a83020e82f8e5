"""What a drill found: numbers with stable names, and the promises that they keep or break.

Pure values. `to_json` is what `-o json` prints and benchmarks collect; a field is never renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egresslab.lab.drills.families import Family
from egresslab.lab.drills.gaps import MS, Connections, Gap, Loss, Seen
from egresslab.lab.drills.owners import Owners
from egresslab.lab.drills.records import Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done: `title`, and when it was begun and done, ns since the epoch."""

    title: str
    begun: int
    done: int


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise: what was wanted, what was seen, and whether that is enough."""

    title: str
    wanted: str
    observed: str
    held: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was measured, before anybody judges it."""

    began: int
    ended: int
    losses: Mapping[Protocol, Loss]
    connections: Connections
    sources: tuple[Seen, ...]
    strangers: Mapping[str, int] | None
    """Packets seen outside by source address, other than from those allowed; None when nobody watched."""
    owners: Owners | None
    control: Loss
    """Traffic that took no gateway: its gap is what the machine and the way there would have done to any traffic."""
    late_ms: float
    """By how much the traffic program itself was late at worst."""

    @property
    def gap_ms(self) -> float:
        """The longest gap of any protocol, but for new connections, which are too far apart to tell."""
        return max(loss.gap_ms for protocol, loss in self.losses.items() if protocol is not Protocol.NEW)

    @property
    def gap(self) -> Gap | None:
        """That gap."""
        found = [loss.gap for protocol, loss in self.losses.items() if protocol is not Protocol.NEW and loss.gap]
        return max(found, key=lambda gap: gap.ms, default=None)


@dataclass(frozen=True, slots=True)
class DrillResult:
    """A drill's outcome; true when every promise held."""

    drill: str
    mode: str
    addressing: str
    gateway: str
    before: str
    after: str
    """Active gateway before and after; empty where nobody is."""
    measured: Measured
    events: tuple[Event, ...]
    claims: tuple[Claim, ...]
    patience: float = 1.0
    """By how much traffic, waits and the gap that is allowed were stretched."""
    family: Family = Family.IPV4

    @property
    def held(self) -> bool:
        """Whether every promise held."""
        return all(claim.held for claim in self.claims)

    def __bool__(self) -> bool:
        return self.held

    def at_ms(self, ns: int) -> float:
        """A time, in ms after the first event was begun."""
        return round((ns - self.events[0].begun) / MS, 1)

    def to_json(self) -> dict[str, Any]:
        """The whole result; times are ms after the first event was begun."""
        measured, connections = self.measured, self.measured.connections
        return {
            "drill": self.drill,
            "mode": self.mode,
            "addressing": self.addressing,
            "family": self.family.value,
            "gateway": self.gateway,
            "active": {"before": self.before or None, "after": self.after or None},
            "gap_ms": round(measured.gap_ms, 1),
            "protocols": {
                protocol.value: {
                    "sent": loss.sent,
                    "lost": loss.lost,
                    "gap_ms": _gap(loss),
                    "gap": [self.at_ms(loss.gap.start), self.at_ms(loss.gap.end)] if loss.gap else None,
                    "recovered": loss.gap is None or loss.gap.closed,
                }
                for protocol, loss in measured.losses.items()
            },
            "connections": {
                "kept": connections.kept,
                "lost": connections.lost,
                "reset": connections.reset,
                "silent": connections.silent,
                "moved": connections.moved,
                "slowest_reset_ms": _rounded(connections.slowest_reset_ms),
                "longest_wait_ms": _rounded(connections.stall_ms[-1] if connections.stall_ms else None),
            },
            "sources_seen": [str(seen.address) for seen in measured.sources],
            "strangers": None if measured.strangers is None else dict(measured.strangers),
            "owners_at_once_max": None if measured.owners is None else measured.owners.at_once,
            "owners": None
            if measured.owners is None
            else [
                {"hardware": reign.hardware, "from_ms": self.at_ms(reign.start), "until_ms": self.at_ms(reign.end)}
                for reign in measured.owners.reigns
            ],
            "control": {"sent": measured.control.sent, "lost": measured.control.lost, "gap_ms": _gap(measured.control)},
            "late_ms": round(measured.late_ms, 1),
            "events": [
                {"title": event.title, "begun_ms": self.at_ms(event.begun), "done_ms": self.at_ms(event.done)}
                for event in self.events
            ],
            "promises": [
                {"promise": claim.title, "wanted": claim.wanted, "observed": claim.observed, "held": claim.held}
                for claim in self.claims
            ],
            "patience": self.patience,
            "held": self.held,
        }

    def _repr_mimebundle_(self, **options: object) -> dict[str, Any]:
        from egresslab.lab.drills.view import bundle

        return bundle(self)

    def __str__(self) -> str:
        from egresslab.lab.drills.view import text

        return text(self)


def _gap(loss: Loss) -> float:
    return round(loss.gap_ms, 1)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
