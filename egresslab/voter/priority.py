"""What a voter asks of the scheduler: lateness is what an outage is made of."""

from __future__ import annotations

import logging
import os

logger = logging.getLogger(__name__)

PRIORITY = 10


def hurry() -> bool:
    """Real-time priority where it is allowed, else the best that ordinary priority offers (sched(7))."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except OSError:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -20)
        except OSError as error:
            logger.debug("nor a better ordinary one: %s", error)
        return False
    return True
