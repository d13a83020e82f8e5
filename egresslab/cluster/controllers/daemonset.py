"""The DaemonSet controller: one pod on each node that should have it, and a revision for each template it ever had."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from functools import partial

from egresslab.api.connection import Api, ApiError
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import DAEMONSETS, NODES, PODS, Object, Resource, key_of
from egresslab.api.selectors import parse_selector
from egresslab.cluster.controllers.caches import Caches, Index
from egresslab.cluster.controllers.daemons import (
    HASH_LABEL,
    pinned_template,
    plan,
    status,
    tolerated_template,
    verdict,
)
from egresslab.cluster.controllers.facts import NodeFacts, node_facts
from egresslab.cluster.controllers.ledger import Ledger
from egresslab.cluster.controllers.ownership import (
    ORPHANS,
    adopt,
    claim,
    controller_key,
    controller_of,
    create_pod,
    delete_pod,
    owner_reference,
    pod_from_template,
    release,
)
from egresslab.cluster.controllers.podstate import is_finished
from egresslab.cluster.controllers.revisions import inherited, plain_template, template_hash
from egresslab.cluster.controllers.statuses import write_status
from egresslab.cluster.controllers.workqueue import WorkQueue
from egresslab.cluster.events import EventRecorder, EventType

CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
CATCH_UP_S = 1.0


class DaemonSetController:
    """Reconciles DaemonSets; the key is (namespace, name)."""

    def __init__(self, api: Api, caches: Caches, pods: Index, events: EventRecorder) -> None:
        self._api = api
        self._events = events
        self._random = random.Random()
        self._daemons = caches.of(DAEMONSETS)
        self._revisions = Index(caches.of(CONTROLLER_REVISIONS), controller_key)
        self._pods = pods
        self._ledger = Ledger(caches.of(PODS))
        self._nodes: dict[str, NodeFacts] = {}
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue("daemonset", self._reconcile)
        self._daemons.listen(lambda change: self.queue.add(key_of(change.object)))
        caches.of(NODES).listen(self._on_node)
        caches.of(PODS).listen(self._on_pod)

    def _on_node(self, change: ObjectChange) -> None:
        name = change.object["metadata"]["name"]
        facts = None if change.type is ChangeType.DELETED else node_facts(change.object)
        if self._nodes.get(name) == facts:
            return
        if facts is None:
            del self._nodes[name]
        else:
            self._nodes[name] = facts
        for owner in self._daemons:
            self.queue.add(key_of(owner))

    def _on_pod(self, change: ObjectChange) -> None:
        for pod in (change.object, change.old):
            reference = controller_of(pod) if pod is not None else None
            if pod is not None and reference is not None and reference["kind"] == DAEMONSETS.kind:
                self.queue.add((pod["metadata"]["namespace"], reference["name"]))

    async def _reconcile(self, key: tuple[str, str]) -> None:
        owner = self._daemons.get(key[1], key[0])
        if owner is None:
            return
        uid, template = owner["metadata"]["uid"], owner["spec"]["template"]
        if not self._ledger.current(uid):
            self.queue.add_after(key, CATCH_UP_S)
            return
        pods = await self._claim(owner)
        revision = template_hash(template, (owner.get("status") or {}).get("collisionCount") or 0)
        verdicts = {name: verdict(tolerated_template(template), node) for name, node in self._nodes.items()}
        refusal, waits = None, []
        if "deletionTimestamp" not in owner["metadata"]:
            await self._remember(owner, revision, pods)
            # A pod already told to go still holds its node, so that its successor does not meet it.
            todo = plan(owner["spec"], verdicts, [self._as_known(pod) for pod in pods], revision, datetime.now(UTC))
            waits.append(todo.wait_s)
            tasks = [partial(self._create, owner, node, revision) for node in todo.create]
            tasks += [partial(self._delete, owner, pod) for pod in todo.delete]
            answers = await asyncio.gather(*(task() for task in tasks))
            refusal = next((answer for answer in answers if answer is not None), None)
        result, wait_s = status(owner, verdicts, pods, revision, datetime.now(UTC))
        await write_status(self._api, DAEMONSETS, owner, result)
        if refusal is not None:
            raise refusal
        for wait in (*waits, wait_s):
            if wait is not None:
                self.queue.add_after(key, wait)

    def _as_known(self, pod: Object) -> Object:
        if not self._ledger.is_removed(pod) or "deletionTimestamp" in pod["metadata"]:
            return pod
        return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": "requested"}}

    async def _claim(self, owner: Object) -> list[Object]:
        metadata, selector = owner["metadata"], parse_selector(owner["spec"]["selector"])
        found = claim(owner, selector, self._pods.of(metadata["uid"]), self._pods.of((ORPHANS, metadata["namespace"])))
        pods = list(found.owned)
        for pod in found.adopt:
            pods.append(await adopt(self._api, owner, DAEMONSETS, pod, PODS))
            self._ledger.wrote(metadata["uid"], pods[-1])
        for pod in found.release:
            self._ledger.wrote(metadata["uid"], await release(self._api, owner, pod, PODS))
        return pods

    async def _create(self, owner: Object, node: str, revision: str) -> ApiError | None:
        template = pinned_template(tolerated_template(owner["spec"]["template"]), node)
        pod = pod_from_template(owner, DAEMONSETS, template, {HASH_LABEL: revision})
        try:
            answer = await create_pod(self._api, pod, self._random)
        except ApiError as error:
            self._events.record(owner, EventType.WARNING, "FailedCreate", f"Error creating: {error.message}")
            return error
        self._ledger.wrote(owner["metadata"]["uid"], answer)
        name = answer["metadata"]["name"]
        self._events.record(owner, EventType.NORMAL, "SuccessfulCreate", f"Created pod: {name}")
        return None

    async def _delete(self, owner: Object, pod: Object) -> ApiError | None:
        name = pod["metadata"]["name"]
        if is_finished(pod):
            where = f"{owner['metadata']['namespace']}/{name} on node {pod['spec'].get('nodeName')}"
            message = f"Found failed daemon pod {where}, will try to kill it"
            self._events.record(owner, EventType.WARNING, "FailedDaemonPod", message)
        try:
            await delete_pod(self._api, pod)
        except ApiError as error:
            return error
        self._ledger.removed(pod)
        self._events.record(owner, EventType.NORMAL, "SuccessfulDelete", f"Deleted pod: {name}")
        return None

    async def _remember(self, owner: Object, revision: str, pods: list[Object]) -> None:
        """Keep the present template as the newest ControllerRevision, and no more old ones than the limit."""
        metadata = owner["metadata"]
        known = sorted(self._revisions.of(metadata["uid"]), key=lambda item: item["revision"])
        name = f"{metadata['name']}-{revision}"
        newest = known[-1]["revision"] if known else 0
        mine = next((item for item in known if item["metadata"]["name"] == name), None)
        if mine is None:
            await self._create_revision(owner, name, revision, newest + 1)
        elif mine["revision"] < newest:
            # Not a patch: kube-apiserver compares `data` byte by byte, and a patch would put its keys in order.
            await self._api.replace(CONTROLLER_REVISIONS, {**mine, "revision": newest + 1})
        used = {(pod["metadata"].get("labels") or {}).get(HASH_LABEL) for pod in pods} | {revision}
        spare = [item for item in known if (item["metadata"].get("labels") or {}).get(HASH_LABEL) not in used]
        for item in spare[: max(0, len(spare) - owner["spec"].get("revisionHistoryLimit", 10))]:
            await self._drop_revision(item)

    async def _create_revision(self, owner: Object, name: str, revision: str, number: int) -> None:
        template = owner["spec"]["template"]
        labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: revision}
        body: Object = {
            "apiVersion": CONTROLLER_REVISIONS.api_version,
            "kind": CONTROLLER_REVISIONS.kind,
            "metadata": {
                "name": name,
                "namespace": owner["metadata"]["namespace"],
                "labels": labels,
                "annotations": inherited(owner),
                "ownerReferences": [owner_reference(owner, DAEMONSETS)],
            },
            "data": {"spec": {"template": {**plain_template(template), "$patch": "replace"}}},
            "revision": number,
        }
        try:
            await self._api.create(CONTROLLER_REVISIONS, body, owner["metadata"]["namespace"])
        except ApiError as error:
            # The cache may not show yet what we made a moment ago; the name says that it is the same template.
            if error.status != 409:
                raise

    async def _drop_revision(self, item: Object) -> None:
        metadata = item["metadata"]
        try:
            await self._api.delete(CONTROLLER_REVISIONS, metadata["name"], metadata["namespace"], uid=metadata["uid"])
        except ApiError as error:
            if error.status not in (404, 409):
                raise
