"""Taints and tolerations (Kubernetes "Taints and Tolerations"), for the scheduler, DaemonSets and eviction alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from egresslab.api.resources import Object


class Effect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


HARD = (Effect.NO_SCHEDULE, Effect.NO_EXECUTE)

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


@dataclass(frozen=True, slots=True)
class Taint:
    """One taint of a node."""

    key: str
    value: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class Toleration:
    """One toleration of a pod; empty `key` with `exists` tolerates every key, `effect` None every effect.

    `seconds` bounds how long a NoExecute taint is borne; None is for ever.
    """

    key: str
    exists: bool
    value: str
    effect: Effect | None
    seconds: int | None = None

    def tolerates(self, taint: Taint) -> bool:
        """Whether this toleration covers `taint`, its duration aside."""
        if self.effect is not None and self.effect is not taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        return self.exists or (bool(self.key) and self.value == taint.value)


def parse_taints(node: Object) -> tuple[Taint, ...]:
    """The taints in a Node's spec."""
    return tuple(
        Taint(item["key"], item.get("value") or "", Effect(item["effect"]))
        for item in (node.get("spec") or {}).get("taints") or ()
    )


def parse_tolerations(spec: Object) -> tuple[Toleration, ...]:
    """The tolerations in a PodSpec."""
    return tuple(
        Toleration(
            item.get("key") or "",
            item.get("operator") == "Exists",
            item.get("value") or "",
            Effect(item["effect"]) if item.get("effect") else None,
            item.get("tolerationSeconds"),
        )
        for item in spec.get("tolerations") or ()
    )


def untolerated(taints: Iterable[Taint], tolerations: Sequence[Toleration], effects: Sequence[Effect]) -> Taint | None:
    """The first taint with one of `effects` that nothing tolerates."""
    for taint in taints:
        if taint.effect in effects and not any(item.tolerates(taint) for item in tolerations):
            return taint
    return None


def bearing_s(taint: Taint, tolerations: Sequence[Toleration]) -> float | None:
    """Seconds for which a pod bears a NoExecute taint: the least of the tolerations that match it, None for ever.

    0 when none matches (Kubernetes' taint-eviction-controller: the minimum of all matching tolerationSeconds).
    """
    matching = [item for item in tolerations if item.tolerates(taint)]
    if not matching:
        return 0.0
    limits = [max(0.0, float(item.seconds)) for item in matching if item.seconds is not None]
    return min(limits) if limits else None
