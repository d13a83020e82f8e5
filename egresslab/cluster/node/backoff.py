"""How long a failing container waits for its next start: Kubernetes' series."""

from __future__ import annotations

FIRST_BACKOFF_S = 10.0
LONGEST_BACKOFF_S = 300.0


def delay_before_restart(exits: int) -> float:
    """Seconds from the `exits`-th end in a series to the next start: none, then 10, doubled up to 300."""
    return 0.0 if exits <= 1 else min(FIRST_BACKOFF_S * 2 ** (exits - 2), LONGEST_BACKOFF_S)


def duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
