"""The control plane's process: API server, scheduler and controllers in one event loop.

It binds its socket on the host's loopback, enters the control-plane node's namespace before anything has started a
thread, binds the node's address there, and then serves. Whatever it knows is in the state file, so it may be killed at
any time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated

import uvicorn
import uvloop
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pyroute2 import netns

from egresslab.cluster.apiserver.server import ApiServer, Settings
from egresslab.cluster.apiserver.store import HISTORY
from egresslab.cluster.forwarding import forwarding

logger = logging.getLogger(__name__)

STOP_S = 5.0
GRACE_S = 1
"""For TLS connections to close: idle clients do not answer, and shall not hold up a restart."""
_BACKLOG = 2048
COLLECT_AFTER = (20_000, 20, 50)
"""Thresholds of the three generations (gc.set_threshold)."""
_KEEP_ALIVE_S = 75

Bind = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-f:.]+\]|[0-9.]+):[0-9]{1,5}$")]
"""`ADDRESS:PORT`, an IPv6 address in brackets."""


class TlsFiles(BaseModel):
    """PEM files; `ca` signed them, and kubelets' certificates too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert: Path
    key: Path
    ca: Path


class Configuration(BaseModel):
    """The JSON file that the environment writes.

    `netns` (a name in /run/netns) and `node_bind` go together; without them the server is on the host's loopback only.
    `kubeconfig` is what the controllers connect with; without it there are none. `service_accounts` says whether pods
    must have a service account; by default they must where there are controllers to make one. `history` is how many
    changes of a resource watches can go back. `upstream` is Kubernetes' own API server: with it none is served here,
    and what comes to `host_bind` is passed on to it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lab: str = "default"
    state: Path | None = None
    host_bind: Bind
    netns: str | None = None
    node_bind: Bind | None = None
    upstream: Bind | None = None
    tls: TlsFiles
    tokens: Path
    kubelet_token: str = ""
    kubelet_port: int = 10250
    service_cidr: IPv4Network | IPv6Network = IPv4Network("10.96.0.0/16")
    kubeconfig: Path | None = None
    service_accounts: bool | None = None
    history: int = Field(default=HISTORY, ge=1)
    log: Path | None = None


def _split(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)


def listen(bind: str) -> socket.socket:
    """A listening TCP socket at `ADDRESS:PORT` in the namespace that the process is in now."""
    host, port = _split(bind)
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """uvicorn's server without its own signal handling: the process has one place for that."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _settings(config: Configuration) -> Settings:
    controlled = config.kubeconfig is not None
    return Settings(
        state=config.state,
        tokens=config.tokens,
        services=config.service_cidr,
        endpoint=_split(config.node_bind or config.host_bind),
        kubelet_token=config.kubelet_token,
        kubelet_port=config.kubelet_port,
        authority=config.tls.ca,
        history=config.history,
        accounts=controlled if config.service_accounts is None else config.service_accounts,
    )


def _server(config: Configuration, api: ApiServer) -> _Server:
    return _Server(
        uvicorn.Config(
            api.app,
            loop="none",
            http="httptools",
            ws="websockets-sansio",
            ws_max_size=16 * 1024 * 1024,
            # Nor does Kubernetes ask: a client that only waits for its command may not be reading.
            ws_ping_interval=None,
            ssl_certfile=str(config.tls.cert),
            ssl_keyfile=str(config.tls.key),
            ssl_version=ssl.PROTOCOL_TLS_SERVER,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            backlog=_BACKLOG,
        )
    )


@contextlib.asynccontextmanager
async def serving(config: Configuration, listeners: list[socket.socket]) -> AsyncIterator[asyncio.Task[None] | None]:
    """The API server while the context is open, as the task that serves, or the way to another one."""
    if config.upstream is not None:
        async with forwarding(listeners[0], *_split(config.upstream)):
            yield None
        return
    api = ApiServer(_settings(config))
    await api.start()
    server = _server(config, api)
    task = asyncio.create_task(server.serve(sockets=listeners), name="api server")
    try:
        yield task
    finally:
        await api.stop()
        server.should_exit = True
        await asyncio.wait([task], timeout=STOP_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        api.store.close()


async def serve(config: Configuration, listeners: list[socket.socket]) -> None:
    """Serve until SIGTERM or SIGINT; raises what ends the server or the controllers, should they fail."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(config, listeners) as server:
        stopping = asyncio.create_task(stop.wait(), name="stop")
        tasks = [stopping, *([server] if server else ())]
        if config.kubeconfig is not None:
            # Imported here: a control plane for tests of the API alone has no need of controllers.
            controllers = importlib.import_module("egresslab.cluster.controllers")
            tasks.append(asyncio.create_task(controllers.run_controllers(config.kubeconfig, stop), name="controllers"))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await asyncio.wait(tasks[2 if server else 1 :] or [stopping], timeout=STOP_S)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, Exception):
            logger.error("%s failed", task.get_name(), exc_info=result)
            raise result
    if stopping not in done:
        logger.error("%s ended by itself", ", ".join(sorted(task.get_name() for task in done)))


def main() -> None:
    """Entry of `python -m egresslab.cluster.controlplane --config FILE`."""
    parser = argparse.ArgumentParser(description="Control plane of the embedded cluster")
    parser.add_argument("--config", type=Path, required=True)
    config = Configuration.model_validate_json(parser.parse_args().config.read_bytes())
    handler = logging.FileHandler(config.log) if config.log else logging.StreamHandler()
    layout = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=layout, handlers=[handler])
    listeners = [listen(config.host_bind)]
    if config.netns is not None:
        netns.setns(config.netns)
    if config.node_bind is not None:
        listeners.append(listen(config.node_bind))
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # Lists make and drop objects by the ten thousand, none of which is in a cycle: collecting took more than half of
    # the time of a long list.
    gc.set_threshold(*COLLECT_AFTER)
    logger.info("lab %s: serving on %s", config.lab, ", ".join(filter(None, (config.host_bind, config.node_bind))))
    uvloop.run(serve(config, listeners))


if __name__ == "__main__":
    main()
