"""Solutions of chapter 12. Each function is what a learner could have written into the exercise's cell."""

from collections.abc import Callable
from typing import Any

from egresslab.lab import Lab


def two_families(lab: Lab, *, policy: Callable[..., dict[str, Any]], gateway: str, other: str) -> None:
    """A policy is about the families of its destinations, so that two policies can share the pod."""
    lab.apply(policy("0.0.0.0/0", node=gateway, interface="eth1"))
    lab.apply(policy("::/0", name="dual-v6", node=other, interface="eth1"))
