"""Scheduler and workload controllers: what makes the objects in the API server come true on nodes.

They keep no state of their own: killed at any moment and started again, they go on from what the API server holds.
"""

from egresslab.cluster.controllers.running import control, run_controllers
from egresslab.cluster.controllers.settings import Settings

__all__ = ["Settings", "control", "run_controllers"]
