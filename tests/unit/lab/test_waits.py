"""Waiting with a deadline."""

from __future__ import annotations

import pytest

from egresslab.errors import ClusterError, LabError
from egresslab.lab.waits import Pending, wait_for


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def wait(answers: list[object], timeout_s: float = 1.0) -> object:
    clock, left = Clock(), iter(answers)

    def predicate() -> object:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return wait_for("the moon", predicate, timeout_s=timeout_s, now=lambda: clock.time, sleep=clock.sleep)


def test_the_first_true_answer_is_returned() -> None:
    assert wait([None, Pending("a quarter"), [], "full"]) == "full"


def test_an_error_for_users_means_not_yet() -> None:
    assert wait([ClusterError("refused"), "full"]) == "full"


def test_the_deadline_tells_what_was_awaited_and_what_was_seen_last() -> None:
    with pytest.raises(LabError, match="waited 1 s for the moon; last seen: three quarters"):
        wait([None, *[Pending("three quarters")] * 9])


def test_the_last_error_is_the_cause() -> None:
    with pytest.raises(LabError, match="last seen: refused") as raised:
        wait([ClusterError("refused")] * 9)
    assert isinstance(raised.value.__cause__, ClusterError)


def test_it_asks_once_even_without_time() -> None:
    assert wait(["full"], timeout_s=0.0) == "full"


def test_defects_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        wait([ZeroDivisionError()])
