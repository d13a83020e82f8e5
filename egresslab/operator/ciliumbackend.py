"""Hot standby for Cilium's own datapath: CiliumEgressGatewayPolicies kept pointing at the node that was seen to hold.

Nobody is elected here. The voters move the lease and the address; an object follows when the new holder has said that
it holds and that the address is on its interface, because Cilium's agents look for the address once, when the object
changes. What is not known changes nothing.

Every write names the version it replaces, and an operator that begins to lead writes every object once under its own
term: what an earlier one still has on its way is refused then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from egresslab.api.connection import Api, ApiError, PatchType, Unreachable
from egresslab.api.resources import CILIUM_POLICIES, Object
from egresslab.operator.events import Kind, write_event
from egresslab.operator.gateways import GatewayView
from egresslab.operator.looking import keep_looking
from egresslab.policy.ciliumobjects import Active, Translation, Wanted, digest, hostname_of, label_value, translate
from egresslab.policy.entries import Problem, Reason
from egresslab.policy.inventory import ref_of_key
from egresslab.policy.model import EgressPolicy, PolicyKey

logger = logging.getLogger(__name__)

FIELD_MANAGER = "egresslab-operator"
MANAGED_BY = "app.kubernetes.io/managed-by"
POLICY_LABEL, GATEWAY_LABEL = "egresslab.dev/policy", "egresslab.dev/gateway"
DIGEST, TERM = "egresslab.dev/spec-digest", "egresslab.dev/operator-term"
PERIOD_S = 1.0
RETRY_S = 0.5
BETWEEN_HOLDERS_S = 5.0
"""For so long without a holder packets stay where they are led: an address of announcers moves in three seconds."""


@dataclass(frozen=True, slots=True)
class Source:
    """A policy to be carried out by Cilium, and what is true of its gateway; `view` None: there is no such gateway."""

    obj: Object
    policy: EgressPolicy
    view: GatewayView | None
    actives: Callable[[str], Active | None]
    """What a node of that name leaves with as the gateway."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a policy: objects that carry it out, the node they lead to, and what is not carried out."""

    objects: tuple[str, ...] = ()
    hostname: str | None = None
    lost: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()


class CiliumBackend:
    """Keeps the objects equal to what `sources` asks for; nothing of ours stays while `sources` gives None.

    `present` gives the CiliumEgressGatewayPolicies there are. Before `ready` nothing is looked at. `term` is another
    one for each leader.
    """

    def __init__(
        self,
        api: Api,
        sources: Callable[[], Iterable[Source] | None],
        present: Callable[[], Iterable[Object]],
        changed: Callable[[], None],
        *,
        ready: Callable[[], bool] = lambda: True,
        term: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._sources = sources
        self._present = present
        self._changed = changed
        self._ready = ready
        self._term = term
        self._clock = clock
        self._without_since: dict[PolicyKey, float] = {}
        self._newest: dict[str, Object] = {}
        """By name what the server answered last, which the watch may not have told yet."""
        self.outcomes: dict[PolicyKey, Outcome] = {}
        self._busy = False
        """Whether the last look found a policy to carry out, or an object of ours."""
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Look when woken, and once a second while there is something to keep; until cancelled."""
        self.wake.set()
        task = "keep a CiliumEgressGatewayPolicy up to date"
        await keep_looking(
            self._look_if_ready, self.wake, task, retry_s=RETRY_S, every_s=PERIOD_S, resting=lambda: not self._busy
        )

    async def _look_if_ready(self) -> None:
        if self._ready():
            await self.look()

    async def look(self) -> None:
        """Compare every object with what is wanted and write the difference. One that cannot be written keeps none of
        the others from it; the first failure is raised at the end."""
        present = self._objects()
        sources = self._sources()
        self._busy = bool(sources) or any(map(_ours, present.values()))
        outcomes: dict[PolicyKey, Outcome] = {}
        kept: set[str] = set()
        failures: list[ApiError | Unreachable] = []
        for source in sources or ():
            translation, hostname = self._wanted(source, present)
            taken = []
            for wanted in translation.objects:
                there = present.get(wanted.name)
                if there is not None and not _ours(there):
                    taken.append(wanted.name)
                    continue
                kept.add(wanted.name)
                try:
                    await self._put(source, wanted, there)
                except (ApiError, Unreachable) as error:
                    failures.append(error)
            written = tuple(w.name for w in translation.objects if w.name not in taken)
            outcomes[source.policy.key] = Outcome(written, hostname, translation.lost, tuple(taken))
        for name, obj in present.items():
            if _ours(obj) and name not in kept:
                await self._remove(obj)
        for key in self._without_since.keys() - outcomes.keys():
            del self._without_since[key]
        if outcomes != self.outcomes:
            self.outcomes = outcomes
            self._changed()
        if failures:
            raise failures[0]

    def problems(self) -> dict[PolicyKey, list[Problem]]:
        """What the objects do not do of what policies ask for."""
        found: dict[PolicyKey, list[Problem]] = {}
        for key, outcome in self.outcomes.items():
            said = [(Reason.NOT_IN_CILIUM, text) for text in outcome.lost]
            said += [
                (Reason.NAME_TAKEN, f"CiliumEgressGatewayPolicy/{name} is somebody else's; rename one of the two")
                for name in outcome.taken
            ]
            found[key] = [Problem(str(key), reason, text, ref_of_key(key)) for reason, text in said]
        return found

    def _objects(self) -> dict[str, Object]:
        told = {obj["metadata"]["name"]: obj for obj in self._present()}
        for name, obj in list(self._newest.items()):
            known = told.get(name)
            if known is not None and _version(known) >= _version(obj):
                del self._newest[name]
            elif known is None or known["metadata"]["uid"] == obj["metadata"]["uid"]:
                told[name] = obj
        return told

    def _wanted(self, source: Source, present: Mapping[str, Object]) -> tuple[Translation, str | None]:
        group = source.view.group if source.view is not None else None
        lead = self._lead(source)
        if lead is not None:
            active = source.actives(lead)
            return translate(source.policy, group, active), active.hostname if active else None
        nobody = translate(source.policy, group, None)
        if group is None or self._given_up(source):
            return nobody, None
        # Between two holders, or nobody knows: they lead where they lead, everything else in them is kept up to date.
        own = {"policy": label_value(source.policy.key.name), "dialect": source.obj["apiVersion"]}
        for obj in present.values():
            if _ours(obj) and _source_of(obj) == own and (hostname := hostname_of(obj.get("spec"))) is not None:
                active = next((a for n in _nodes(source) if (a := source.actives(n)) and a.hostname == hostname), None)
                return translate(source.policy, group, active), hostname if active else None
        return nobody, None

    def _lead(self, source: Source) -> str | None:
        """Who says of itself that it holds, and has the address in place."""
        view = source.view
        if view is None or not view.known or view.active is None or view.silent or not view.confirmed:
            return None
        self._without_since.pop(source.policy.key, None)
        return view.active

    def _given_up(self, source: Source) -> bool:
        """Whether nobody has held for so long that packets had better be dropped knowingly."""
        if source.view is None or not source.view.group.standby:
            return True
        if not source.view.known or source.view.active is not None:
            return False
        since = self._without_since.setdefault(source.policy.key, self._clock())
        return self._clock() - since > BETWEEN_HOLDERS_S

    async def _put(self, source: Source, wanted: Wanted, there: Object | None) -> None:
        body = self._body(source, wanted)
        if there is not None and _same(there, body, wanted):
            return
        if there is not None:
            body["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
            before = (there["metadata"].get("annotations") or {}).get(DIGEST)
            if before != digest(there.get("spec")):
                text = f"CiliumEgressGatewayPolicy/{wanted.name} was changed by other hands; it is put back"
                moment = there["metadata"]["resourceVersion"]
                await write_event(self._api, source.obj, Kind.WARNING, "PutBack", text, moment)
        answer = await self._api.apply(CILIUM_POLICIES, body, field_manager=FIELD_MANAGER)
        if digest(answer.get("spec")) != wanted.digest:
            # Fields that somebody else added are not ours to apply away, only to overwrite.
            version = answer["metadata"]["resourceVersion"]
            change = [
                {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                {"op": "replace", "path": "/spec", "value": wanted.spec},
            ]
            answer = await self._api.patch(CILIUM_POLICIES, wanted.name, change, patch_type=PatchType.JSON)
        self._newest[wanted.name] = answer
        logger.info("CiliumEgressGatewayPolicy/%s leads to %s", wanted.name, hostname_of(wanted.spec) or "nobody")

    async def _remove(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        self._newest.pop(name, None)
        try:
            await self._api.delete(CILIUM_POLICIES, name, uid=obj["metadata"]["uid"])
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        logger.info("CiliumEgressGatewayPolicy/%s is gone", name)

    def _body(self, source: Source, wanted: Wanted) -> Object:
        metadata, gateway = source.obj["metadata"], source.obj["spec"].get("egressGatewayName", "")
        return {
            "apiVersion": CILIUM_POLICIES.api_version,
            "kind": CILIUM_POLICIES.kind,
            "metadata": {
                "name": wanted.name,
                "labels": {
                    MANAGED_BY: FIELD_MANAGER,
                    POLICY_LABEL: label_value(metadata["name"]),
                    GATEWAY_LABEL: label_value(gateway),
                },
                "annotations": {DIGEST: wanted.digest, **({TERM: self._term} if self._term else {})},
                "ownerReferences": [
                    {
                        "apiVersion": source.obj["apiVersion"],
                        "kind": source.obj["kind"],
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": wanted.spec,
        }


def in_words(outcome: Outcome) -> str:
    """For a condition's message."""
    where = f"lead to {outcome.hostname}" if outcome.hostname else "lead to nobody: packets are dropped"
    objects = ", ".join(f"CiliumEgressGatewayPolicy/{name}" for name in outcome.objects)
    return f"{objects} {where}" if objects else "no CiliumEgressGatewayPolicy: packets pass"


def _ours(obj: Object) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return labels.get(MANAGED_BY) == FIELD_MANAGER and POLICY_LABEL in labels


def _source_of(obj: Object) -> dict[str, str]:
    owner: Object = next(iter(obj["metadata"].get("ownerReferences") or ()), {})
    return {"policy": obj["metadata"]["labels"][POLICY_LABEL], "dialect": owner.get("apiVersion", "")}


def _same(there: Object, body: Object, wanted: Wanted) -> bool:
    metadata = there["metadata"]
    return (
        digest(there.get("spec")) == wanted.digest
        and all(
            (metadata.get(field) or {}).get(key) == value
            for field in ("labels", "annotations")
            for key, value in body["metadata"][field].items()
        )
        and [owner.get("uid") for owner in metadata.get("ownerReferences") or ()]
        == [owner["uid"] for owner in body["metadata"]["ownerReferences"]]
    )


def _version(obj: Object) -> int:
    """resourceVersions of one kind are compared as numbers (KEP-5504); of anything else, the answer counts for less."""
    text = str(obj["metadata"]["resourceVersion"])
    return int(text) if text.isdigit() else 0


def _nodes(source: Source) -> list[str]:
    return [candidate.node for candidate in source.view.candidates] if source.view is not None else []
