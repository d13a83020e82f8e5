"""Whether the world beyond a gateway can be reached from this node: the candidate itself asks the gateway's targets.

What it finds is published as a Node annotation, so that every node and the voters judge alike; nothing is decided
here. A gateway is taken for healthy until its targets were lost as often as it says.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import aiohttp

from egresslab.agent.ping import ping
from egresslab.agent.view import ClusterView
from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.resources import NODES
from egresslab.policy.engine import Engine
from egresslab.policy.inventory import HEALTH_ANNOTATION
from egresslab.policy.model import GroupKey, ProbeProtocol, UpstreamProbe
from egresslab.policy.sources import interfaces_of, way_out

logger = logging.getLogger(__name__)

RETRY_S = 0.5
AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Question:
    """One target of one gateway, asked through `interface` (None: as the routing table says)."""

    gateway: str
    probe: UpstreamProbe
    recoveries: int
    interface: str | None

    def __str__(self) -> str:
        return f"{self.probe.protocol} {self.probe.target}"


def questions(engine: Engine, node: str) -> Iterator[Question]:
    """What `node` has to ask: the targets of every gateway that it is a candidate of."""
    own = engine.registry.nodes.get(node)
    for state in engine.registry.groups.values():
        group = state.group
        if own is None or group is None or not isinstance(state.key, GroupKey) or not state.has(node):
            continue
        interface = way_out(group.members[0].source, group.announce_interfaces, interfaces_of(own))
        for probe in group.health.upstream:
            yield Question(state.key.text, probe, group.health.recoveries, interface)


async def ask(question: Question) -> str | None:
    """None when the target answered, else why not, in words. Any HTTP answer below 500 will do, whoever certifies it:
    only reachability is asked for."""
    probe = question.probe
    if probe.protocol is ProbeProtocol.ICMP:
        return await ping(ip_address(probe.target), probe.timeout_s, question.interface)

    def bound(info: AddressInfo) -> socket.socket:
        made = socket.socket(info[0], info[1], info[2])
        if question.interface is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, question.interface.encode())
        return made

    # A name in a URL is looked up in a thread (aiohttp's own resolver): the C library has no other way.
    connector = aiohttp.TCPConnector(socket_factory=bound, force_close=True, use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(total=probe.timeout_s)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
            session.get(probe.target, ssl=False, allow_redirects=False) as answer,
        ):
            return None if answer.status < 500 else f"answered with status {answer.status}"
    except TimeoutError:
        return f"no answer within {probe.timeout_s * 1000:.0f} ms"
    except (aiohttp.ClientError, OSError) as error:
        return str(error) or repr(error)


class UpstreamHealth:
    """Asks for node `node` and keeps its annotation; `wake` is to be set whenever gateways or the node have changed."""

    def __init__(self, api: Api, view: ClusterView, node: str) -> None:
        self._api = api
        self._view = view
        self._node = node
        self._tasks: dict[Question, asyncio.Task[None]] = {}
        self._lost: dict[Question, str] = {}
        """Targets that are taken for lost, and why."""
        self._found = asyncio.Event()
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Ask and publish until cancelled."""
        self.wake.set()
        before = self._published()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish())
            while True:
                await self.wake.wait()
                self.wake.clear()
                wanted = set(questions(self._view.engine, self._node))
                for question in self._tasks.keys() - wanted:
                    self._tasks.pop(question).cancel()
                    self._lost.pop(question, None)
                for question in wanted - self._tasks.keys():
                    # An agent that starts anew must not declare whole what the one before it found broken.
                    if question.gateway in before:
                        self._lost[question] = before[question.gateway]
                    self._tasks[question] = group.create_task(self._keep_asking(question))
                before = {}
                self._found.set()

    async def _keep_asking(self, question: Question) -> None:
        losses = answers = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            why = await ask(question)
            losses, answers = (losses + 1, 0) if why is not None else (0, answers + 1)
            if why is not None and losses >= question.probe.failures and question not in self._lost:
                self._lost[question] = f"{question}: {why}"
                self._found.set()
            elif why is None and answers >= question.recoveries and self._lost.pop(question, None) is not None:
                self._found.set()
            await asyncio.sleep(max(0.0, began + question.probe.interval_s - loop.time()))

    def unfit(self) -> dict[str, str]:
        """Gateways none of whose targets answers, each with the reason."""
        by_gateway: dict[str, list[str | None]] = {}
        for question in self._tasks:
            by_gateway.setdefault(question.gateway, []).append(self._lost.get(question))
        return {
            gateway: f"reaches nothing upstream ({'; '.join(sorted(set(filter(None, lost))))})"
            for gateway, lost in sorted(by_gateway.items())
            if all(why is not None for why in lost)
        }

    def _published(self) -> Mapping[str, str]:
        node = self._view.engine.registry.nodes.get(self._node)
        return node.unfit if node is not None else {}

    async def _publish(self) -> None:
        while True:
            await self._found.wait()
            self._found.clear()
            unfit = self.unfit()
            node = self._view.objects[NODES].get(self._node)
            text = json.dumps(unfit, sort_keys=True) if unfit else None
            if node is None or node["metadata"].get("annotations", {}).get(HEALTH_ANNOTATION) == text:
                continue
            try:
                await self._api.patch(NODES, self._node, {"metadata": {"annotations": {HEALTH_ANNOTATION: text}}})
                logger.info("gateways that this node is not fit for: %s", unfit or "none")
            except (ApiError, Unreachable) as error:
                logger.warning("cannot publish the gateways' health: %s", error)
                await asyncio.sleep(RETRY_S)
                self._found.set()
