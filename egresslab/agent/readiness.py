"""Which nodes have a working agent and voter, as their pods say: a node without them takes no lease over.

A restart is not an absence. What forwards is in the kernel, so a node counts as ready until its pod has been unready
for a while; only one that was never seen ready is not.
"""

from __future__ import annotations

from collections.abc import Callable

from egresslab.agent.view import AGENT, is_agent
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import Object

GRACE_S = 20.0
"""How long a pod may be unready, or away, before its node is no longer fit."""


class AgentReadiness:
    """Follows the DaemonSet's pods. `here` is this agent's own node, which needs no pod to say that it runs."""

    def __init__(self, here: str, clock: Callable[[], float], daemon: str = AGENT) -> None:
        """`clock` counts seconds and never goes back; `daemon` is the name that the pods' label says."""
        self._here = here
        self._daemon = daemon
        self._clock = clock
        self._pods: dict[str, tuple[str, bool]] = {}
        """UID to node and readiness."""
        self._last_ready: dict[str, float] = {}
        """Node to when its pod ceased to be ready, as far as seen."""

    def take(self, change: ObjectChange) -> bool:
        """An object changed; whether it was one of these pods."""
        pod = change.object
        if pod["kind"] != "Pod" or not is_agent(pod, self._daemon):
            return False
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName")
        before = self._pods.pop(uid, None)
        if before is not None and before[1]:
            self._last_ready[before[0]] = self._clock()
        if change.type is not ChangeType.DELETED and node is not None:
            self._pods[uid] = node, _ready(pod)
        return True

    def doubt(self, node: str) -> str | None:
        """Why the node is not fit; None when it is."""
        if node == self._here or any(name == node and ready for name, ready in self._pods.values()):
            return None
        last = self._last_ready.get(node)
        if last is not None and self._clock() - last < GRACE_S:
            return None
        return "its agent is not ready" if last is None else f"its agent has not been ready for {GRACE_S:.0f} s"

    def wait_s(self) -> float | None:
        """When time alone may change an answer: seconds from now, None for never."""
        ready = {node for node, is_ready in self._pods.values() if is_ready}
        now = self._clock()
        left = [last + GRACE_S - now for node, last in self._last_ready.items() if node not in ready]
        return min((wait for wait in left if wait > 0), default=None)


def _ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
