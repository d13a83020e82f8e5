"""What an environment can do, whatever it is made of.

The command line and the lab library hold an `Environment` and nothing more concrete. It must never grow a method for
something that the Kubernetes API can tell or do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Phase(StrEnum):
    """How far a lab is."""

    ABSENT = "absent"
    BUILDING = "building"
    RUNNING = "running"
    DEGRADED = "degraded"


class FaultKind(StrEnum):
    """Ways to break a lab: a node that dies at once, that loses power and starts again, that stands still with all
    that is on it; a cable that is pulled; a process that is killed (and starts again), or that is stopped (and stays
    away until it is healed)."""

    CRASH = "crash"
    POWER = "power"
    HANG = "hang"
    CUT = "cut"
    KILL = "kill"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Fault:
    """One breakage; `target` is a node (crash, power, hang, cut) or a process (kill, stop), `network` narrows a cut to
    one. Only nodes that are machines can hang."""

    kind: FaultKind
    target: str
    network: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What bringing a lab up did: `changed` is false for a lab that was running already; durations are seconds."""

    changed: bool
    seconds: float
    steps: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as the API server and the namespaces show it; `ready` is None when the API server did not say."""

    name: str
    role: str
    addresses: Mapping[str, tuple[str, ...]]
    ready: bool | None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process that the environment keeps alive; `pid` is None when it is not running."""

    name: str
    pid: int | None
    since: datetime | None
    restarts: int
    held: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """A lab at a glance."""

    lab: str
    environment: str
    phase: Phase
    kubeconfig: Path | None
    api: str | None
    nodes: tuple[NodeStatus, ...] = ()
    processes: tuple[ProcessStatus, ...] = ()
    faults: tuple[Fault, ...] = ()
    remarks: tuple[str, ...] = ()


class Progress(Protocol):
    """Who is told what an environment is doing."""

    def step(self, text: str) -> None:
        """A new step begins."""

    def note(self, text: str) -> None:
        """Something worth saying within the step."""


class Silent:
    """Progress for callers who do not want any."""

    def step(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class Environment(Protocol):
    """A place where one lab lives. Every method raises `EnvironmentFailure` for what a user can mend."""

    @property
    def lab(self) -> str:
        """Name of the lab."""

    @property
    def patience(self) -> float:
        """How many times longer than usual what a node does may take: 1, or more where processors are emulated."""

    def create(self, progress: Progress) -> Outcome:
        """Bring the lab up, or finish what an earlier call began; returns when every node is Ready."""

    def delete(self, progress: Progress) -> bool:
        """Take the lab down, whatever state it is in; false when there was nothing to take down."""

    def status(self) -> Status:
        """How the lab is doing, without changing anything."""

    def kubeconfig(self) -> Path:
        """File that kubectl and every client of the lab's API server need."""

    def break_(self, fault: Fault) -> None:
        """Break something on purpose."""

    def heal(self, target: str) -> None:
        """Mend every fault of a node or a process."""

    def faults(self) -> tuple[Fault, ...]:
        """What is broken on purpose right now."""
