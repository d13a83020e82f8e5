"""Statuses of our dialect's policies: how many pods and entries, whether the policy was accepted, is in force, and
whether another contests it.

Not a claim about packets: `Programmed` says that the agents of all nodes concerned report their maps complete.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from egresslab.api.connection import Api
from egresslab.api.resources import EGRESSLAB_POLICIES, Object
from egresslab.operator.ciliumbackend import Outcome, in_words
from egresslab.operator.conditions import Condition, Truth
from egresslab.operator.looking import keep_looking
from egresslab.operator.statuses import Statuses
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Problem, Reason
from egresslab.policy.inventory import ref_of_key
from egresslab.policy.model import Dialect, PolicyKey
from egresslab.policy.usage import Usage, usage

logger = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Between two looks: pods come and go in bursts, and a look takes time in proportion to them."""

NO_GATEWAY = (Reason.NO_GATEWAY_OBJECT, Reason.NO_GATEWAY_NODE)
WITHOUT_SOURCE = (
    Reason.EGRESS_IP_NOT_FOUND,
    Reason.INTERFACE_NOT_FOUND,
    Reason.NO_DEFAULT_ROUTE,
    Reason.FAMILY_MISSING,
    Reason.INTERFACES_UNKNOWN,
)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a status is made of: decisions, what is wrong, policies there are, nodes whose agent is ready; where Cilium
    carries policies out, what became of each."""

    engine: Engine
    problems: Collection[Problem]
    objects: Collection[Object]
    ready_agents: Collection[str]
    outcomes: Mapping[PolicyKey, Outcome] | None = None


class PolicyReports:
    """Keeps the statuses of policies; `look_at` gives the situation as it is now."""

    def __init__(self, api: Api, look_at: Callable[[], Situation]) -> None:
        self._look_at = look_at
        self._statuses = Statuses(api)
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Look when woken, until cancelled."""
        await keep_looking(self.look, self.wake, "write a policy's status", retry_s=PAUSE_S, pause_s=PAUSE_S)

    async def look(self) -> None:
        """Compare every policy with its status and write the difference."""
        now = self._look_at()
        found = usage(now.engine) if now.objects else {}
        for obj in now.objects:
            key = PolicyKey(Dialect.EGRESSLAB, obj["metadata"]["name"])
            own = found.get(key, Usage())
            outcome = now.outcomes.get(key) if now.outcomes is not None else None
            if outcome is not None:
                own = _together(found.get(PolicyKey(Dialect.CILIUM, name), Usage()) for name in outcome.objects)
            fields = {"pods": own.pods, "entries": own.entries}
            told = [p for p in now.problems if p.ref == ref_of_key(key)]
            full = [p for p in now.problems if p.reason is Reason.MAP_FULL]
            conditions = policy_conditions(own, told, full, now.ready_agents)
            if now.outcomes is not None:
                conditions = (conditions[0], _carried_out(outcome), conditions[2])
            await self._statuses.write(EGRESSLAB_POLICIES, obj, fields, conditions)
        self._statuses.keep(obj["metadata"]["uid"] for obj in now.objects)


def _carried_out(outcome: Outcome | None) -> Condition:
    """`Programmed` where Cilium's agents do it: whether objects lead to a gateway; what its maps hold is not known."""
    if outcome is None:
        return Condition("Programmed", Truth.UNKNOWN, "NotYet", "no CiliumEgressGatewayPolicy was written so far")
    said = [in_words(outcome), *outcome.lost]
    said += [f"CiliumEgressGatewayPolicy/{name} is somebody else's" for name in outcome.taken]
    if outcome.taken:
        return Condition("Programmed", Truth.FALSE, str(Reason.NAME_TAKEN), "; ".join(said))
    if outcome.lost:
        return Condition("Programmed", Truth.FALSE, str(Reason.NOT_IN_CILIUM), "; ".join(said))
    if outcome.hostname is None:
        return Condition("Programmed", Truth.FALSE, str(Reason.NO_GATEWAY_NODE), "; ".join(said))
    return Condition("Programmed", Truth.TRUE, "GivenToCilium", "; ".join(said))


def _together(parts: Iterable[Usage]) -> Usage:
    """One family's object concerns the pods that the other's does."""
    own = Usage()
    for part in parts:
        own.pods = max(own.pods, part.pods)
        own.entries += part.entries
        own.nodes |= part.nodes
        own.gateways |= part.gateways
    return own


def policy_conditions(
    own: Usage, told: Iterable[Problem], full: Iterable[Problem], ready_agents: Collection[str]
) -> tuple[Condition, ...]:
    """`Accepted`, `Programmed` and `Conflict` of one policy; `told` are its problems, `full` those of the map."""
    by_reason: Mapping[Reason, str] = {problem.reason: problem.message for problem in [*told, *full]}
    return _accepted(by_reason), _programmed(own, by_reason, ready_agents), _conflict(by_reason)


def _accepted(told: Mapping[Reason, str]) -> Condition:
    if Reason.REFUSED in told:
        text = f"{told[Reason.REFUSED]}; what was accepted before stays in force"
        return Condition("Accepted", Truth.FALSE, "Refused", text)
    return Condition("Accepted", Truth.TRUE, "Accepted", "understood in full")


def _programmed(own: Usage, told: Mapping[Reason, str], ready_agents: Collection[str]) -> Condition:
    for reason in (*NO_GATEWAY, *WITHOUT_SOURCE, Reason.MAP_FULL):
        if reason in told:
            return Condition("Programmed", Truth.FALSE, str(reason), told[reason])
    if not own.pods:
        return Condition("Programmed", Truth.TRUE, "NoPods", "no pod is selected at present")
    missing = sorted((own.nodes | own.gateways) - {*ready_agents})
    if missing:
        return Condition("Programmed", Truth.FALSE, "AgentNotReady", f"no agent is ready on {', '.join(missing)}")
    if Reason.TOO_MANY_ADDRESSES in told:
        return Condition("Programmed", Truth.TRUE, str(Reason.TOO_MANY_ADDRESSES), told[Reason.TOO_MANY_ADDRESSES])
    where = f"{len(own.nodes)} {'nodes' if len(own.nodes) > 1 else 'node'} with pods"
    return Condition("Programmed", Truth.TRUE, "AgentsReady", f"the agents of {where} and of the gateways are ready")


def _conflict(told: Mapping[Reason, str]) -> Condition:
    if Reason.CONFLICT in told:
        return Condition("Conflict", Truth.TRUE, "Contested", told[Reason.CONFLICT])
    return Condition("Conflict", Truth.FALSE, "NoConflict", "no other policy claims the same with another outcome")
