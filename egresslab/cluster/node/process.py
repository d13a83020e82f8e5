"""The node process: enters the node's network namespace, lays its network, then lets everything run side by side.

When it is told to stop, or dies, containers go on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from pyroute2 import AsyncIPRoute

from egresslab.api.access import with_token
from egresslab.api.connection import connected
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import ENDPOINT_SLICES, NODES, SERVICES
from egresslab.cluster.events import EventRecorder
from egresslab.cluster.node import kernel, masquerade, namespaces, processes, routes
from egresslab.cluster.node.addresses import AddressPool
from egresslab.cluster.node.config import NodeConfig
from egresslab.cluster.node.dns import answering
from egresslab.cluster.node.images import Images
from egresslab.cluster.node.logs import LogWatcher
from egresslab.cluster.node.names import Names
from egresslab.cluster.node.podset import PodSet
from egresslab.cluster.node.registration import Registration
from egresslab.cluster.node.rootfs import Rootfs
from egresslab.cluster.node.routes import PeerRoutes
from egresslab.cluster.node.server import serving
from egresslab.cluster.node.surroundings import Services

logger = logging.getLogger(__name__)

COMPONENT = "kubelet"


def prepare(config: NodeConfig) -> None:
    """Before there is an event loop: namespace, forwarding, masquerading, folders."""
    namespaces.prepare_directory()
    if config.network_namespace is not None:
        kernel.enter_network_namespace(config.network_namespace)
    kernel.become_subreaper()
    routes.forward_packets()
    masquerade.install(config.pod_cidrs, config.cluster_cidrs)
    config.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Tokens and secrets are below; containers see them through mounts, nobody else does.
    config.pods.mkdir(mode=0o700, parents=True, exist_ok=True)


def _node_listener(config: NodeConfig, peers: PeerRoutes, registration: Registration) -> Any:
    def hear(change: ObjectChange) -> None:
        name = change.object["metadata"]["name"]
        deleted = change.type is ChangeType.DELETED
        if name == config.name:
            registration.learn(None if deleted else change.object)
        elif deleted:
            peers.forget(name)
        else:
            peers.learn(change.object)

    return hear


async def run(config: NodeConfig) -> None:
    """Everything a node does, until SIGTERM or SIGINT; a task that fails ends the process, which is started again."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGCHLD, processes.reap_children)
    async with AsyncExitStack() as stack:
        host = AsyncIPRoute()
        stack.callback(host.close)
        await routes.own_addresses(host, config.pod_cidrs, (config.dns.address,))
        access = with_token(config.api.url, config.api.ca.read_text(), config.api.token)
        api = await stack.enter_async_context(connected(access))
        names = Names(config.dns.domain, config.dns.records)
        await stack.enter_async_context(answering(names, config.dns.domain, config.dns.address))
        services = Services(
            config=config,
            api=api,
            host=host,
            images=Images(config.images),
            rootfs=Rootfs(config.state / "files", config.ca_bundle),
            events=EventRecorder(api, COMPONENT, config.name),
            logs=LogWatcher(),
            addresses=AddressPool(config.pod_cidrs, config.state / "next-address"),
        )
        pods = PodSet(services, api)
        registration = Registration(api, config)
        peers = PeerRoutes(host, config.name, config.peers)
        await stack.enter_async_context(serving(config, pods))
        parts: dict[str, Coroutine[Any, Any, None]] = {
            "routes": peers.run(),
            "events": services.events.run(),
            "logs": services.logs.run(),
            "registration": registration.run(),
            "nodes": Reflector(api, NODES, _node_listener(config, peers, registration)).run(),
            "services": Reflector(api, SERVICES, names.hear_service).run(),
            "endpoints": Reflector(api, ENDPOINT_SLICES, names.hear_slice).run(),
            "pods": pods.run(),
            "stop": stop.wait(),  # type: ignore[dict-item]
        }
        tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
