"""Solutions of chapter 06. Each function is what a learner could have written into the exercise's cell."""

from collections.abc import Mapping

from egresslab.lab import Lab


def who_moves(lab: Lab, *, before: Mapping[str, str], address: str) -> list[str]:
    """Preferences do not change: whoever preferred the gateway when all three were there does so again."""
    return [pod for pod, seen in before.items() if seen == address]
