"""All pods of this node: a worker for each one bound here, and an end for what earlier pods have left.

It follows the API server's list and does nothing before that list is known: a kubelet that cannot see must not remove.
"""

from __future__ import annotations

import asyncio
import logging

from egresslab.api.connection import Api
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import PODS
from egresslab.cluster.node import plugins, sandbox
from egresslab.cluster.node.leftovers import end_pod
from egresslab.cluster.node.namespaces import remove_namespace
from egresslab.cluster.node.pods import PodWorker
from egresslab.cluster.node.surroundings import Services
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)


class PodSet:
    """Workers by UID; `run` is the task that owns them."""

    def __init__(self, services: Services, api: Api) -> None:
        self._services = services
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: asyncio.Queue[str] = asyncio.Queue()
        selector = f"spec.nodeName={services.config.name}"
        self.reflector = Reflector(api, PODS, self._hear, field_selector=selector)

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of a pod that is on this node."""
        pod = self.reflector.get(name, namespace)
        if pod is not None:
            return self._workers.get(pod["metadata"]["uid"])
        for worker in self._workers.values():
            metadata = worker.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return worker
        return None

    async def run(self) -> None:
        """Follow the pods until cancelled; their containers go on then."""
        following = asyncio.create_task(self.reflector.run(), name="following pods")
        clearing = asyncio.create_task(self._clear_leftovers(), name="leftovers")
        try:
            while True:
                uid = await self._ended.get()
                task = self._tasks.pop(uid)
                worker = self._workers.pop(uid)
                try:
                    task.result()
                except Exception:
                    # A defect of ours: it must be seen, but must not take the node's other pods with it.
                    logger.exception("the worker of pod %s failed; it starts again", worker.label)
                    self._restart(worker)
        finally:
            tasks = [following, clearing, *self._tasks.values()]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _hear(self, change: ObjectChange) -> None:
        pod = change.object
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if change.type is ChangeType.DELETED:
            if worker is not None:
                worker.vanish()
        elif worker is not None:
            worker.update(pod)
        else:
            self._begin(PodWorker(self._services, pod))

    def _begin(self, worker: PodWorker) -> None:
        self._workers[worker.uid] = worker
        task = asyncio.create_task(worker.run(), name=f"pod {worker.label}")
        self._tasks[worker.uid] = task

        def note(done: asyncio.Task[None]) -> None:
            if not done.cancelled():
                self._ended.put_nowait(worker.uid)

        task.add_done_callback(note)

    def _restart(self, worker: PodWorker) -> None:
        """Begin again from the records after a pause, as a new kubelet would."""

        def begin() -> None:
            metadata = worker.pod["metadata"]
            pod = self.reflector.get(metadata["name"], metadata["namespace"])
            if pod is not None and pod["metadata"]["uid"] == worker.uid and worker.uid not in self._workers:
                self._begin(PodWorker(self._services, pod))

        asyncio.get_running_loop().call_later(5.0, begin)

    async def _clear_leftovers(self) -> None:
        """Remove recorded pods that the API server no longer knows."""
        await self.reflector.synced.wait()
        config = self._services.config
        for directory, known in list(sandbox.sandboxes(config)):
            if directory.name in self._workers:
                continue
            logger.info("removing what is left of pod %s", directory.name)
            namespace = known.link.namespace if known and known.link else config.pod_namespace(directory.name)
            try:
                end_pod(directory, namespace)
                if known is not None and known.link is not None:
                    await plugins.farewell(config.root, known.plugin_body({}))
                await sandbox.destroy(config, self._services.host, directory.name, known)
                remove_namespace(namespace)
            except ClusterError as error:
                logger.error("cannot remove what is left of pod %s: %s", directory.name, error)
