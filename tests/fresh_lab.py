"""A lab of the tests' own, new whatever happened before it.

A run of the tests that is killed leaves its lab up, with whatever was broken or half made in it; and two checkouts may
be tested at once on one machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from egresslab.environments.base import Silent
from egresslab.environments.netns.environment import NetnsEnvironment

CHECKOUT = hashlib.sha256(str(Path(__file__).resolve()).encode()).hexdigest()[:4]


@contextmanager
def fresh_lab(part: str) -> Iterator[NetnsEnvironment]:
    """The lab of one part of the tests in this checkout, up; taken down at the end whatever happened."""
    environment = NetnsEnvironment(f"{part}-{CHECKOUT}")
    environment.delete(Silent())
    try:
        environment.create(Silent())
        yield environment
    finally:
        environment.delete(Silent())
