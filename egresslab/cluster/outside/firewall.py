"""The firewall outside: follows the ConfigMap outside/firewall, loads its rules, writes down whom it lets in.

The rules stay in the kernel whatever happens to this process or to the API server, and a mistake in the ConfigMap
leaves the last good rules in force, is reported as an event on it and in the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from egresslab.api.connection import Api
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import CONFIGMAPS, EVENTS, Object
from egresslab.cluster.outside.config import Server
from egresslab.cluster.outside.firewall_log import FirewallLog
from egresslab.cluster.outside.rules import Rules, parse_rules, ruleset
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

NAMESPACE, NAME = "outside", "firewall"
NFT_DEADLINE_S = 10.0


async def load_rules(rules: Rules) -> None:
    """Replace the rules in this network namespace; raises `ClusterError` with nft's words when it refuses them."""
    process = await asyncio.create_subprocess_exec(
        "nft",
        "-f",
        "-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(NFT_DEADLINE_S):
            output, _ = await process.communicate(ruleset(rules).encode())
    except TimeoutError as error:
        process.kill()
        raise ClusterError(f"nft did not load the rules within {NFT_DEADLINE_S:g} s", object="firewall") from error
    if process.returncode != 0:
        raise ClusterError(f"nft refused the rules: {output.decode(errors='replace').strip()}", object="firewall")
    if rules.nat:
        await asyncio.to_thread(_own_addresses, {str(rule.address) for rule in rules.nat})


def _own_addresses(addresses: set[str]) -> None:
    """Give the NAT its addresses: answers to them are routed before they are translated back.

    To be called in a thread: pyroute2 brings an event loop of its own, as uvloop knows no netlink sockets.
    """
    from pyroute2 import IPRoute  # takes a while to import, and most labs have no NAT

    with IPRoute() as ip:
        (loopback,) = ip.link_lookup(ifname="lo")
        for address in addresses:
            ip.addr("replace", index=loopback, address=address, prefixlen=32 if "." in address else 128)


class Firewall:
    """Follows the ConfigMap for as long as `run` runs."""

    def __init__(self, api: Api, servers: tuple[Server, ...], log: FirewallLog) -> None:
        self._api = api
        self._servers = servers
        self._log = log
        self._wanted: asyncio.Queue[Object | None] = asyncio.Queue()

    async def run(self) -> None:
        """Follow and apply until cancelled."""
        reflector = Reflector(
            self._api, CONFIGMAPS, self._changed, namespace=NAMESPACE, field_selector=f"metadata.name={NAME}"
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reflector.run(), name="follow the ConfigMap")
            tasks.create_task(self._settle_absence(reflector), name="first look")
            tasks.create_task(self._apply_all(), name="apply rules")

    def _changed(self, change: ObjectChange) -> None:
        if change.object["metadata"]["name"] == NAME:
            self._wanted.put_nowait(None if change.type is ChangeType.DELETED else change.object)

    async def _settle_absence(self, reflector: Reflector) -> None:
        """A ConfigMap that was deleted while we were away sends no change; rules from before must go nevertheless."""
        await reflector.synced.wait()
        if reflector.get(NAME, NAMESPACE) is None:
            self._wanted.put_nowait(None)

    async def _apply_all(self) -> None:
        applied: str | None = None
        while True:
            configmap = await self._wanted.get()
            data: Mapping[str, str] = (configmap or {}).get("data") or {}
            digest = hashlib.sha256(repr(sorted(data.items())).encode()).hexdigest()
            if digest == applied:
                continue
            try:
                rules = parse_rules(data, self._servers)
                await load_rules(rules)
            except ClusterError as error:
                self._log.line(f"rules unchanged, {str(error).splitlines()[0]}")
                await self._report(configmap, error)
            else:
                self._log.line(rules.summary())
            applied = digest

    async def _report(self, configmap: Object | None, error: ClusterError) -> None:
        """Say on the ConfigMap, as an event, why its rules are not in force."""
        logger.error("%s", error)
        if configmap is None:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        metadata = configmap["metadata"]
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{NAME}.", "namespace": NAMESPACE},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": NAME,
                "namespace": NAMESPACE,
                "uid": metadata.get("uid"),
                "resourceVersion": metadata.get("resourceVersion"),
            },
            "type": "Warning",
            "reason": "InvalidRules",
            "message": str(error),
            "source": {"component": "outside-firewall"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._api.create(EVENTS, event, NAMESPACE)
        except ClusterError as failure:
            logger.warning("no event for that: %s", failure)
