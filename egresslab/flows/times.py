"""Points in time as people type them: `30s`, `5m`, `2h`, an RFC 3339 time, or nanoseconds since 1970."""

from __future__ import annotations

import re

from egresslab.errors import ClusterError
from egresslab.flows.flow import SECOND, parse_time

UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
PART = r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)"
"""Go's durations (package time, ParseDuration), which Hubble takes, and days are not among them."""


def moment(text: str, now_ns: int, option: str = "--since") -> int:
    """Nanoseconds since 1970; a duration counts back from now. Raises `ClusterError` for anything else."""
    if text.isdecimal():
        return int(text)
    if re.fullmatch(f"(?:{PART})+", text):
        return now_ns - sum(round(float(number) * UNITS[unit]) for number, unit in re.findall(PART, text))
    try:
        return parse_time(text)
    except ValueError as error:
        raise ClusterError(
            "not a time", object=option, value=text, fix="a duration such as 5m or 1h30m, or 2026-01-31T12:00:00Z"
        ) from error
