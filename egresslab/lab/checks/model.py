"""What a check is, what it finds, and the verdict that a learner sees.

Pure values. `Bench` is all that a probe may use of a lab, so that probes are tested against a made-up one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from egresslab.api.resources import Object, Resource
from egresslab.lab.capture import Capture
from egresslab.lab.entries import Entry
from egresslab.lab.firewall import Firewall
from egresslab.lab.nodes import Node, Pod
from egresslab.lab.observe import Flows
from egresslab.lab.probes import Answer
from egresslab.lab.terminal import CommandResult


class Outcome(StrEnum):
    """How a check came out."""

    PASS = "pass"
    FAIL = "fail"
    NOT_ATTEMPTED = "not attempted"
    NOT_APPLICABLE = "not applicable"
    ERROR = "error"

    @property
    def mark(self) -> str:
        """A sign that goes with the word, never without it."""
        return {"pass": "✔", "fail": "✘", "not attempted": "…", "not applicable": "–", "error": "⚠"}[self.value]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe saw, once; `command` shows the same to a person."""

    outcome: Outcome
    expected: str
    observed: str
    command: str = ""


class Bench(Protocol):
    """What a probe may ask of a lab."""

    @property
    def current_namespace(self) -> str: ...
    @property
    def nodes(self) -> Sequence[Node]: ...
    @property
    def firewall(self) -> Firewall: ...
    def pod(self, name: str) -> Pod: ...
    def reach(self, pod: str, url: str) -> Answer: ...
    def map_entries(self, node: str | None = None) -> Sequence[Entry]: ...
    def objects(self, resource: Resource) -> Sequence[Object]: ...
    def exec(
        self, pod: str, command: str | Sequence[str], *, check: bool = True, show: bool = True
    ) -> CommandResult: ...
    def capture(self, expression: str = "tcp", interface: str = "any") -> Capture: ...
    @property
    def observe(self) -> Callable[..., Flows]: ...


Probe = Callable[..., Finding]
"""`(bench, **subject) -> Finding`; the subject is what the chapter passes to `lab.check`."""


@dataclass(frozen=True, slots=True)
class Check:
    """A claim that can be checked: `hints` lead from where to look, over what to compare, to nearly the answer."""

    id: str
    title: str
    probe: Probe
    hints: tuple[str, str, str]
    within_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A check's result, with its evidence."""

    id: str
    title: str
    outcome: Outcome
    expected: str
    observed: str
    command: str
    seconds: float
    hint: str = ""
    subject: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.outcome is Outcome.PASS

    def to_json(self) -> dict[str, Any]:
        """The record that reports keep."""
        return {**asdict(self), "outcome": self.outcome.value, "seconds": round(self.seconds, 3)}

    def _ipython_display_(self) -> None:
        """`lab.check` has shown it already."""


__all__ = ["Bench", "Check", "Finding", "Outcome", "Probe", "Verdict"]
