"""The one rhythm of whatever compares what is with what should be: look when woken, seldom on its own, again after a
failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from egresslab.api.connection import ApiError, Unreachable

logger = logging.getLogger(__name__)


async def keep_looking(
    look: Callable[[], Awaitable[None]],
    wake: asyncio.Event,
    task: str,
    *,
    retry_s: float,
    every_s: float | None = None,
    resting: Callable[[], bool] = lambda: False,
    pause_s: float = 0.0,
) -> None:
    """Until cancelled: `look` whenever `wake` was set, and each `every_s` seconds if that is given.

    While `resting` says after a look that time alone brings nothing new, only `wake` counts.
    A look during which the API refuses or cannot be reached is repeated after `retry_s`; `task` says in the log what
    could not be done. `pause_s` is left after a look, so that a burst of changes is one look.
    """
    rests = False
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(None if rests else every_s):
                await wake.wait()
        wake.clear()
        try:
            await look()
        except (ApiError, Unreachable) as error:
            logger.warning("cannot %s: %s", task, error)
            await asyncio.sleep(retry_s)
            wake.set()
        else:
            await asyncio.sleep(pause_s)
            rests = resting()
