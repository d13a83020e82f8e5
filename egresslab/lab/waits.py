"""Waiting for something to become so, with a deadline, and with the last thing seen when it did not.

Clock and sleep are passed in, so that a test of waiting does not wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from egresslab.errors import EgresslabError, LabError

T = TypeVar("T")

INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Pending:
    """A predicate's "not yet", with what it saw instead."""

    observed: object

    def __bool__(self) -> bool:
        return False


def wait_for(
    what: str,
    predicate: Callable[[], T | Pending],
    *,
    timeout_s: float,
    interval_s: float = INTERVAL_S,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Ask `predicate` until it answers with something true, and return that.

    An `EgresslabError` from the predicate means "not yet" as well: a cluster in motion refuses now and then. Raises
    `LabError` after `timeout_s` seconds, saying what was awaited and what was last seen. The predicate is asked at
    least once.
    """
    started = now()
    while True:
        cause: EgresslabError | None = None
        try:
            answer = predicate()
            if answer:
                return answer  # type: ignore[return-value]  # Pending is never true
            last = answer.observed if isinstance(answer, Pending) else answer
        except EgresslabError as error:
            last, cause = error, error
        if now() - started >= timeout_s:
            raise LabError(f"waited {timeout_s:g} s for {what}; last seen: {last}") from cause
        sleep(interval_s)
