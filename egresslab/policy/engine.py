"""Incremental decisions: told of one change, says which entries and slots change. (interface; being filled in)"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from egresslab.policy.entries import Change, Changes, Entry, Problem, Slot


class Fidelity(StrEnum):
    """Whose outcome is wanted where ours differs from Cilium's on purpose (docs/differences.md)."""

    EGRESSLAB = "egresslab"
    CILIUM = "cilium"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of decisions; every node of a cluster must have the same."""

    fidelity: Fidelity = Fidelity.EGRESSLAB
    cilium_health_aware_gateways: bool = False
    capacity: int | None = None
    """Entries of one family that the kernel's map holds; more is reported as MapFull."""
    buckets: int = 256
    """Buckets of pods in a group that spreads."""


class Engine:
    """All decisions for one cluster. Not thread-safe; the same values in any order give the same state."""

    def __init__(self, settings: Settings = Settings()) -> None:
        self.settings = settings

    def apply(self, change: Change) -> Changes:
        """Take in one change."""
        raise NotImplementedError

    def apply_all(self, changes: Iterable[Change]) -> Changes:
        """Take in several; the answer has each entry and slot at most once, from first state to last."""
        raise NotImplementedError

    def entries(self) -> Iterator[Entry]:
        """All entries, in no particular order."""
        raise NotImplementedError

    def slots(self) -> dict[int, Slot]:
        """All slots by number."""
        raise NotImplementedError

    def problems(self) -> list[Problem]:
        """What is wrong, by policy and gateway, sorted."""
        raise NotImplementedError
