"""What the operator's metrics say: whether it leads, what the cluster asks for, what is wrong with it, who holds what.

Agents count packets and failovers; what is here is what only the whole cluster shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import version

from egresslab.agent.exposition import Declaration, Kind, Samples
from egresslab.agent.metrics import API_ERRORS, BUILD
from egresslab.agent.view import ClusterView
from egresslab.api.connection import Api
from egresslab.api.resources import (
    CILIUM_POLICIES,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
)
from egresslab.operator.gateways import GatewayView, Role
from egresslab.policy.entries import Reason

PORT = 9882

LEADING = Declaration(
    "egresslab_operator_leading", Kind.GAUGE, (), "Whether this copy acts; the others wait and have nothing to say."
)
OBJECTS = Declaration("egresslab_objects", Kind.GAUGE, ("group", "kind"), "Policies and gateways in the cluster.")
PROBLEMS = Declaration(
    "egresslab_problems", Kind.GAUGE, ("reason",), "Policies and gateways that do not do all they say, by reason."
)
ENTRIES = Declaration(
    "egresslab_entries", Kind.GAUGE, ("family",), "Policy entries that every node's kernel should hold."
)
GATEWAY_ACTIVE = Declaration(
    "egresslab_gateway_active",
    Kind.GAUGE,
    ("group", "node"),
    "Whether a candidate is observed to be the gateway of its group; the same is told in the gateway's status.",
)
GATEWAY_READY = Declaration(
    "egresslab_gateway_ready_nodes", Kind.GAUGE, ("group",), "Candidates that are the gateway or could take over now."
)
GATEWAY_OUTAGE = Declaration(
    "egresslab_gateway_last_failover_outage_seconds",
    Kind.GAUGE,
    ("group",),
    "How long nobody held the lease in the last failover, as the node that took over measured it.",
)
GATEWAY_MOVED = Declaration(
    "egresslab_gateway_last_failover_timestamp_seconds", Kind.GAUGE, ("group",), "When that was."
)

DECLARED = (
    BUILD,
    LEADING,
    OBJECTS,
    PROBLEMS,
    ENTRIES,
    GATEWAY_ACTIVE,
    GATEWAY_READY,
    GATEWAY_OUTAGE,
    GATEWAY_MOVED,
    API_ERRORS,
)
COUNTED = (CILIUM_POLICIES, DECKHOUSE_GATEWAYS, DECKHOUSE_POLICIES, EGRESSLAB_GATEWAYS, EGRESSLAB_POLICIES)


class OperatorMetrics:
    """Read anew for each scrape; until `lead` there is little to say."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._version = version("egresslab")
        self._view: ClusterView | None = None
        self._gateways: Callable[[], Iterable[GatewayView]] = tuple

    def lead(self, view: ClusterView, gateways: Callable[[], Iterable[GatewayView]]) -> None:
        """From now on this copy acts, on that view; `gateways` gives what is observed of each."""
        self._view, self._gateways = view, gateways

    async def read(self) -> Samples:
        """Everything that is declared."""
        samples: Samples = {
            BUILD: {(self._version, "operator"): 1},
            LEADING: {(): self._view is not None},
            API_ERRORS: {(reason,): number for reason, number in self._api.errors.items()},
        }
        return samples if self._view is None else {**samples, **_of_cluster(self._view), **self._of_gateways()}

    def _of_gateways(self) -> Samples:
        views = {view.key.text: view for view in self._gateways()}
        moves = {group: view.failover for group, view in views.items() if view.failover is not None}
        return {
            GATEWAY_ACTIVE: {
                (group, candidate.node): candidate.role is Role.ACTIVE
                for group, view in views.items()
                for candidate in view.candidates
            },
            GATEWAY_READY: {(group,): view.ready_nodes for group, view in views.items()},
            GATEWAY_OUTAGE: {
                (group,): move.outage_ms / 1000 for group, move in moves.items() if move.outage_ms is not None
            },
            GATEWAY_MOVED: {(group,): move.time for group, move in moves.items()},
        }


def _of_cluster(view: ClusterView) -> Samples:
    problems = Counter(problem.reason for problem in view.engine.problems())
    return {
        OBJECTS: {(resource.group, resource.kind): len(view.objects[resource]) for resource in COUNTED},
        PROBLEMS: {(reason.value,): problems[reason] for reason in Reason},
        ENTRIES: {("ipv4",): view.engine.count(4), ("ipv6",): view.engine.count(6)},
    }
