"""Nodes without anything on them: objects and heartbeats as a kubelet posts them, pods that run the moment they come.

It also keeps what it saw, so that tests can say what never happened.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from egresslab.api.connection import Api, ApiError, PatchType, Unreachable
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import LEASES, NODES, PODS, Object
from egresslab.cluster.events import now

CONTROL_PLANE = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}


class HollowKubelets:
    """The kubelets of several nodes. `delay_s` says how long a pod takes to become ready (None: it never does)."""

    def __init__(
        self, api: Api, names: list[str], *, delay_s: Callable[[Object], float | None] = lambda pod: 0.0
    ) -> None:
        self._api = api
        self._delay_s = delay_s
        self.names = names
        self.silent: set[str] = set()
        self.pods = Reflector(api, PODS, self._on_pod)
        self.changed = asyncio.Event()
        self.seen: dict[str, Object] = {}
        self.bound_to: dict[str, set[str]] = {}
        self.most_at_once: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._addresses = iter(range(1, 65000))

    async def register(self) -> None:
        """Create the Node objects, ready, and their leases."""
        for number, name in enumerate(self.names):
            labels = {"kubernetes.io/hostname": name, "zone": "ab"[number % 2]}
            node = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": labels},
                "status": {
                    "conditions": [ready_condition()],
                    "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "250"},
                    "addresses": [{"type": "InternalIP", "address": f"192.0.2.{number + 10}"}],
                },
            }
            await self._api.create(NODES, node)

    async def run(self) -> None:
        """Follow the pods until cancelled."""
        try:
            await self.pods.run()
        finally:
            for task in self._tasks:
                task.cancel()

    async def heartbeat(self, name: str) -> None:
        """Post the node's status and renew its lease once."""
        body = {"status": {"conditions": [ready_condition()]}}
        await self._api.patch(NODES, name, body, patch_type=PatchType.STRATEGIC, subresource="status")
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lease: Object = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "renewTime": moment},
        }
        await self._api.apply(LEASES, lease, field_manager="kubelet")

    async def until(self, what: str, holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until `holds` of the pods seen."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            states = [
                (pod["metadata"]["name"], pod["spec"].get("nodeName"), pod["status"]["phase"]) for pod in self.pods
            ]
            raise AssertionError(f"not within {timeout_s:g} s: {what}; pods: {states}") from None

    def running(self, **labels: str) -> list[Object]:
        """Pods that run, are not terminating and carry these labels (`_` in a name stands for `-`)."""
        wanted = {name.replace("_", "-"): value for name, value in labels.items()}
        return [
            pod
            for pod in self.pods
            if pod["status"].get("phase") == "Running"
            and "deletionTimestamp" not in pod["metadata"]
            and wanted.items() <= (pod["metadata"].get("labels") or {}).items()
        ]

    def _on_pod(self, change: ObjectChange) -> None:
        pod = change.object
        metadata, node = pod["metadata"], pod["spec"].get("nodeName")
        self.seen[metadata["uid"]] = pod
        if node:
            self.bound_to.setdefault(metadata["uid"], set()).add(node)
        living = Counter(
            label for other in self.pods if (label := (other["metadata"].get("labels") or {}).get("app")) is not None
        )
        for label, count in living.items():
            self.most_at_once[label] = max(self.most_at_once[label], count)
        self.changed.set()
        if change.type is ChangeType.DELETED or node not in self.names or node in self.silent:
            return
        if "deletionTimestamp" in metadata:
            self._start(self._stop(pod))
        elif pod["status"].get("phase") == "Pending":
            self._start(self._run(pod))

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, pod: Object) -> None:
        delay_s = self._delay_s(pod)
        address = next(self._addresses)
        status: Object = {
            "phase": "Running",
            "podIP": f"10.244.{address // 250}.{address % 250 + 1}",
            "podIPs": [{"ip": f"10.244.{address // 250}.{address % 250 + 1}"}],
            "conditions": [{**ready_condition(), "status": "False"}],
        }
        if delay_s != 0.0:
            await self._post(pod, status)
        if delay_s is None:
            return
        await asyncio.sleep(delay_s)
        await self._post(pod, {**status, "conditions": [ready_condition()]})

    async def _post(self, pod: Object, status: Object) -> None:
        metadata = pod["metadata"]
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}

        async def post() -> None:
            await self._api.patch(
                PODS,
                metadata["name"],
                body,
                metadata["namespace"],
                patch_type=PatchType.STRATEGIC,
                subresource="status",
            )

        await insist(post)

    async def _stop(self, pod: Object) -> None:
        metadata = pod["metadata"]
        await insist(
            lambda: self._api.delete(
                PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"], grace_period_s=0
            )
        )


async def insist(request: Callable[[], Any]) -> None:
    """Repeat while the API server is away; what is gone or replaced is fine."""
    async with asyncio.timeout(60):
        while True:
            try:
                await request()
                return
            except Unreachable:
                await asyncio.sleep(0.1)
            except ApiError as error:
                if error.status not in (404, 409):
                    raise
                return


def ready_condition() -> Object:
    """A node's or pod's Ready condition as of now."""
    return {
        "type": "Ready",
        "status": "True",
        "reason": "Hollow",
        "lastHeartbeatTime": now(),
        "lastTransitionTime": now(),
    }
