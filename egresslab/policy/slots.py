"""Numbers for slots: small, never 0, and not given out again in the same step in which they were given back."""

from __future__ import annotations

import heapq


class Numbers:
    """The lowest free number first; what is released becomes free when the step is settled.

    Without that pause, entries that still point at a number would for a moment mean somebody else's gateway.
    """

    def __init__(self) -> None:
        self._next = 1
        self._free: list[int] = []
        self._released: list[int] = []

    def take(self) -> int:
        """A number that nobody has."""
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def release(self, number: int) -> None:
        """Give it back."""
        self._released.append(number)

    def settle(self) -> None:
        """The step is over: what was released may be taken from now on."""
        for number in self._released:
            heapq.heappush(self._free, number)
        self._released.clear()

    def reserve(self, numbers: set[int]) -> None:
        """Exactly these are taken from now on."""
        self._next = max(numbers, default=0) + 1
        self._free = [number for number in range(1, self._next) if number not in numbers]
        self._released.clear()
