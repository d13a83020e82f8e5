"""Wires the controllers to one connection and one set of caches, and runs them until told to stop."""

from __future__ import annotations

import asyncio
import base64
import logging
from pathlib import Path
from typing import Any

import yaml

from egresslab.api.connection import Api, ApiError, Unreachable, connect
from egresslab.api.resources import NAMESPACES, PODS, Object
from egresslab.cluster.controllers.caches import Caches, Index
from egresslab.cluster.controllers.clusterdns import ClusterDns
from egresslab.cluster.controllers.daemonset import DaemonSetController
from egresslab.cluster.controllers.deployment import DeploymentController
from egresslab.cluster.controllers.endpoints import EndpointsController
from egresslab.cluster.controllers.garbage import GarbageCollector
from egresslab.cluster.controllers.namespaces import NamespaceController
from egresslab.cluster.controllers.nodelifecycle import NodeLifecycleController
from egresslab.cluster.controllers.ownership import controller_key
from egresslab.cluster.controllers.podcollector import PodCollector
from egresslab.cluster.controllers.replicaset import ReplicaSetController
from egresslab.cluster.controllers.roles import RoleAggregator
from egresslab.cluster.controllers.scheduler import NAME, Scheduler
from egresslab.cluster.controllers.settings import Settings
from egresslab.cluster.controllers.taintmanager import TaintManager
from egresslab.cluster.controllers.workqueue import WorkQueue
from egresslab.cluster.events import EventRecorder
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

DEFAULTS = Settings()
SERVER_PAUSE_S = 0.1
SERVER_DEADLINE_S = 60.0


async def run_controllers(kubeconfig: Path, stop: asyncio.Event, settings: Settings = DEFAULTS) -> None:
    """Run scheduler and controllers against the API server of `kubeconfig` until `stop` is set.

    Raises `ClusterError` when the kubeconfig is unusable or the API server does not answer within a minute; later
    outages are waited out.
    """
    ca = _certificate_authority(kubeconfig)
    async with connect(kubeconfig) as api:
        work = asyncio.create_task(control(api, ca, settings), name="controllers")
        halt = asyncio.create_task(stop.wait(), name="controllers-stop")
        try:
            await asyncio.wait((work, halt), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, halt):
                task.cancel()
            await asyncio.wait((work, halt))
        if not work.cancelled():
            work.result()


async def control(api: Api, ca: str, settings: Settings = DEFAULTS) -> None:
    """All controllers over one connection, until cancelled; `ca` is the PEM text that pods are to trust."""
    caches = Caches(api)
    pods = caches.of(PODS)
    owned, placed = Index(pods, controller_key), Index(pods, _node_key)
    events = {
        name: EventRecorder(api, name)
        for name in (
            NAME,
            "replicaset-controller",
            "deployment-controller",
            "daemonset-controller",
            "node-controller",
            "taint-eviction-controller",
        )
    }
    collector = GarbageCollector(api, caches)
    queues: list[WorkQueue[Any]] = [
        ClusterDns(api, caches, settings).queue,
        NamespaceController(api, caches, ca).queue,
        Scheduler(api, caches, events[NAME]).queue,
        ReplicaSetController(api, caches, owned, events["replicaset-controller"]).queue,
        DeploymentController(api, caches, owned, events["deployment-controller"]).queue,
        DaemonSetController(api, caches, owned, events["daemonset-controller"]).queue,
        EndpointsController(api, caches).queue,
        NodeLifecycleController(api, caches, placed, events["node-controller"], settings).queue,
        TaintManager(api, caches, placed, events["taint-eviction-controller"]).queue,
        PodCollector(api, caches, placed, settings).queue,
        RoleAggregator(api, caches).queue,
        collector.queue,
    ]
    await _first_discovery(api, collector)
    try:
        async with asyncio.TaskGroup() as group:
            caches.start(group)
            await caches.wait_synced()
            for recorder in events.values():
                group.create_task(recorder.run(), name="events")
            for queue in queues:
                group.create_task(queue.run(), name=queue.name)
            logger.info("controllers are running")
    except* ClusterError as errors:
        raise errors.exceptions[0] from errors


async def _first_discovery(api: Api, collector: GarbageCollector) -> None:
    try:
        async with asyncio.timeout(SERVER_DEADLINE_S):
            while True:
                try:
                    # kube-apiserver makes it once all that it serves is there; before that, groups may be missing.
                    await api.get(NAMESPACES, "kube-system")
                    await collector.follow_served()
                    return
                except (ApiError, Unreachable) as error:
                    logger.info("waiting for the API server: %s", error)
                    await asyncio.sleep(SERVER_PAUSE_S)
    except TimeoutError as error:
        raise ClusterError(f"no API server within {SERVER_DEADLINE_S:g} s", object="controllers") from error


def _node_key(pod: Object) -> tuple[str, ...]:
    node = pod["spec"].get("nodeName")
    return (node,) if node else ()


def _certificate_authority(kubeconfig: Path) -> str:
    """The PEM text of the cluster's CA as the kubeconfig has it, "" when it has none."""
    try:
        content = yaml.safe_load(kubeconfig.read_text())
        cluster = content["clusters"][0]["cluster"]
        if "certificate-authority-data" in cluster:
            return base64.b64decode(cluster["certificate-authority-data"]).decode()
        if "certificate-authority" in cluster:
            return (kubeconfig.parent / str(cluster["certificate-authority"])).read_text()
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ClusterError(f"not a usable kubeconfig: {error!r}", object=str(kubeconfig)) from error
    return ""
