"""The process of the outside world: enters its namespace, then serves, echoes and guards until it is told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import ValidationError

from egresslab.cluster.outside.config import OutsideConfig
from egresslab.cluster.outside.echo import echoing
from egresslab.cluster.outside.firewall_log import FirewallLog
from egresslab.cluster.outside.packetlog import reading
from egresslab.cluster.outside.rules import LOG_GROUP
from egresslab.cluster.outside.web import serving
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

CLONE_NEWNET = 0x40000000


def load_config(path: Path) -> OutsideConfig:
    """Read the configuration; raises `ClusterError` naming the file and the field."""
    try:
        return OutsideConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ClusterError(f"cannot be read: {error.strerror}", object=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ClusterError(
            first["msg"], object=str(path), field=".".join(map(str, first["loc"])), value=first["input"]
        ) from error


def enter_network_namespace(path: Path) -> None:
    """Move this process, while it has one thread only, into a bound network namespace (setns(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise ClusterError(f"cannot enter the network namespace: {os.strerror(code)}", object=str(path))
    finally:
        os.close(descriptor)


async def run(config: OutsideConfig) -> None:
    """Everything there is outside, until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log = FirewallLog(config.firewall_log)
    async with AsyncExitStack() as stack:
        # First, so that no decision goes unlogged once anybody is answered.
        stack.enter_context(reading(LOG_GROUP, log.packet))
        await stack.enter_async_context(serving(config))
        addresses = tuple(address for server in config.servers for address in server.addresses)
        await stack.enter_async_context(echoing(addresses, config.echo_port))
        logger.info("serving %d addresses", len(addresses))
        if config.kubeconfig is None:
            await stop.wait()
            return
        # Imported here: the servers answer a good while before a Kubernetes client is ready to be used.
        from egresslab.api.connection import connect
        from egresslab.cluster.outside.firewall import Firewall

        api = await stack.enter_async_context(connect(config.kubeconfig))
        guard = asyncio.create_task(Firewall(api, config.servers, log).run(), name="firewall")
        stopped = asyncio.create_task(stop.wait(), name="wait for a signal")
        try:
            await asyncio.wait((guard, stopped), return_when=asyncio.FIRST_COMPLETED)
            if guard.done():
                guard.result()
        finally:
            for task in (guard, stopped):
                task.cancel()
            await asyncio.gather(guard, stopped, return_exceptions=True)
