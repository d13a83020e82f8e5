"""Fault objects as values: what one asks for, and the claims that outlive whoever carries them out.

A claim is written before its fault is done and removed after it was mended, so that whatever is interrupted in between
ends mended. Two objects may claim the same fault; it is mended with the last of them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from egresslab.api.resources import Object
from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.netns.configs import CONTROL_PLANE, FAULTS
from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.topology import Topology
from egresslab.errors import EnvironmentFailure

POWER_S = 10.0


class Type(StrEnum):
    """`spec.type`."""

    CRASH = "Crash"
    POWER = "Power"
    CUT = "Cut"
    PARTITION = "Partition"
    AGENT_KILL = "AgentKill"
    KILL = "Kill"
    STOP = "Stop"
    HANG = "Hang"


KINDS = {
    Type.CRASH: FaultKind.CRASH,
    Type.POWER: FaultKind.CRASH,
    Type.CUT: FaultKind.CUT,
    Type.PARTITION: FaultKind.CUT,
    Type.AGENT_KILL: FaultKind.KILL,
    Type.KILL: FaultKind.KILL,
    Type.STOP: FaultKind.STOP,
    Type.HANG: FaultKind.HANG,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What an object asks for; for AgentKill the fault's target is a node."""

    uid: str
    name: str
    type: Type
    target: str
    fault: Fault
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A fault that was done for an object's sake; `until` in seconds of the epoch."""

    uid: str
    name: str
    fault: Fault
    until: float | None

    @property
    def lasting(self) -> bool:
        """Whether there is anything to mend: a kill happens once."""
        return self.fault.kind is not FaultKind.KILL


def wish_of(obj: Object, topology: Topology) -> Wish:
    """Raises `EnvironmentFailure` for what cannot or must not be done in this lab."""
    spec, metadata = obj["spec"], obj["metadata"]
    kind, target = Type(spec["type"]), str(spec["target"])
    duration: float | None = spec.get("durationSeconds")
    if kind is Type.POWER and duration is None:
        duration = POWER_S
    if kind not in (Type.KILL, Type.STOP):
        topology.node(target)
    fault = Fault(KINDS[kind], target, spec.get("network") if kind is Type.CUT else None)
    fatal = [Fault(FaultKind.CRASH, topology.control_plane.name), Fault(FaultKind.STOP, CONTROL_PLANE)]
    if fault == Fault(FaultKind.STOP, FAULTS) or (duration is None and fault in fatal):
        raise EnvironmentFailure(
            "would take away what has to mend it",
            object=f"Fault/{metadata['name']}",
            field="spec.durationSeconds",
            fix="say after how long it is to be mended" if fault in fatal else "use type Kill",
        )
    return Wish(metadata["uid"], metadata["name"], kind, target, fault, duration)


def read_claims(directory: Path) -> dict[str, Claim]:
    """All claims of a lab by UID; `directory` is where it keeps them."""
    found = {}
    for file in sorted(directory.glob("*.json")) if directory.is_dir() else ():
        raw: dict[str, Any] = json.loads(file.read_text())
        fault = Fault(FaultKind(raw["fault"]["kind"]), raw["fault"]["target"], raw["fault"]["network"])
        found[raw["uid"]] = Claim(raw["uid"], raw["name"], fault, raw["until"])
    return found


def write_claim(directory: Path, claim: Claim) -> None:
    """Remember a claim."""
    directory.mkdir(exist_ok=True)
    write_atomically(directory / f"{claim.uid}.json", json.dumps(asdict(claim)))


def drop_claim(directory: Path, uid: str) -> None:
    """Forget a claim."""
    (directory / f"{uid}.json").unlink(missing_ok=True)
