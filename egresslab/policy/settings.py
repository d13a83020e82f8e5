"""Settings of decisions. Every node of a cluster must have the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fidelity(StrEnum):
    """Whose outcome is wanted where ours differs from Cilium's on purpose (docs/differences.md)."""

    EGRESSLAB = "egresslab"
    CILIUM = "cilium"


@dataclass(frozen=True, slots=True)
class Settings:
    """`capacity` is how many entries of one family the kernel's map holds; more is reported as MapFull."""

    fidelity: Fidelity = Fidelity.EGRESSLAB
    cilium_health_aware_gateways: bool = False
    capacity: int | None = None
    buckets: int = 256
    """Buckets of pods in a group that spreads."""


DEFAULTS = Settings()
