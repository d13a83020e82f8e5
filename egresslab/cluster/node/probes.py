"""Probes and lifecycle hooks: the small actions that a pod asks its kubelet to perform.

An action is an exec in the container, an HTTP request, a TCP connection or a pause; each has a time limit and says in
words why it failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

import aiohttp

from egresslab.api.resources import Object
from egresslab.cluster.node.containers import Container
from egresslab.cluster.node.entering import CannotExecute, run

HOOK_TIMEOUT_S = 600.0
EARLY_PAUSE_S, EARLY_SHARE, EARLY_S = 0.2, 0.05, 5.0
"""At least so long between early attempts, which take at most this share of the time: not where time is short."""


class ProbeKind(Enum):
    """What a probe is asked for, as in a container's fields."""

    STARTUP = "Startup"
    READINESS = "Readiness"
    LIVENESS = "Liveness"

    @property
    def field(self) -> str:
        """Name in the container's spec."""
        return f"{self.value.lower()}Probe"


class ActionFailed(Exception):
    """An action had the answer "no", or none; never leaves the node but as the text of an event."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a container's actions go: its run, its pod's first address, and the numbers of its named ports."""

    container: Container
    address: str
    ports: dict[str, int]

    def port(self, value: int | str) -> int:
        """A port by number or name."""
        if isinstance(value, int) or value.isdigit():
            return int(value)
        if value not in self.ports:
            raise ActionFailed(f"the container has no port named {value!r}")
        return self.ports[value]


async def perform(action: Object, target: Target, timeout_s: float) -> None:
    """Carry out an exec, httpGet, tcpSocket or sleep action; raises `ActionFailed`."""
    try:
        if spec := action.get("exec"):
            await _exec(spec, target, timeout_s)
        elif spec := action.get("httpGet"):
            async with asyncio.timeout(timeout_s):
                await _http_get(spec, target, timeout_s)
        elif spec := action.get("tcpSocket"):
            async with asyncio.timeout(timeout_s):
                await _tcp(spec, target)
        elif spec := action.get("sleep"):
            await asyncio.sleep(min(float(spec["seconds"]), timeout_s))
        elif "grpc" in action:
            raise ActionFailed("gRPC actions are not available on this node; use exec, httpGet or tcpSocket")
    except TimeoutError as error:
        raise ActionFailed(f"timed out after {timeout_s:g}s") from error
    except (OSError, aiohttp.ClientError) as error:
        raise ActionFailed(str(error) or repr(error)) from error


async def _exec(spec: Object, target: Target, timeout_s: float) -> None:
    try:
        code, output = await run(target.container, spec.get("command") or [], timeout_s)
    except CannotExecute as error:
        raise ActionFailed(error.message) from error
    if code:
        raise ActionFailed(output.strip() or f"exit code {code}")


async def _http_get(spec: Object, target: Target, timeout_s: float) -> None:
    host = str(spec.get("host") or target.address)
    with suppress(ValueError):
        host = f"[{host}]" if ip_address(host).version == 6 else host
    scheme = str(spec.get("scheme") or "HTTP").lower()
    path = str(spec.get("path") or "/")
    url = f"{scheme}://{host}:{target.port(spec['port'])}/{path.removeprefix('/')}"
    headers = {"User-Agent": "kube-probe/1.37", "Accept": "*/*"}
    headers |= {item["name"]: item["value"] for item in spec.get("httpHeaders") or []}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        # As Kubernetes: a probe does not care who signed the certificate.
        session.get(url, headers=headers, ssl=False, allow_redirects=False) as answer,
    ):
        if not 200 <= answer.status < 400:
            raise ActionFailed(f"HTTP probe failed with statuscode: {answer.status}")


async def _tcp(spec: Object, target: Target) -> None:
    _, writer = await asyncio.open_connection(spec.get("host") or target.address, target.port(spec["port"]))
    writer.close()


def named_ports(container: Object) -> dict[str, int]:
    """Named ports of a container's spec."""
    return {port["name"]: int(port["containerPort"]) for port in container.get("ports") or [] if port.get("name")}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one attempt; `settled` when the threshold for this outcome is reached."""

    success: bool
    settled: bool
    message: str = ""


async def probe(spec: Object, target: Target, hear: Callable[[Verdict], None]) -> None:
    """Probe for ever and tell every outcome.

    Thresholds and periods are those of the probe's spec (core/v1 Probe); the first attempt comes after its initial
    delay. A container that has just begun is asked more often than its period says until it answers for the first time,
    so that nobody waits for what is ready already; only a success counts then.
    """
    await asyncio.sleep(float(spec.get("initialDelaySeconds") or 0))
    timeout_s = float(spec.get("timeoutSeconds") or 1)
    period_s = float(spec.get("periodSeconds") or 10)
    failures = successes = 0
    now = asyncio.get_running_loop().time
    due, early_until = now(), now() + EARLY_S
    while True:
        begun = now()
        regular = begun >= due
        try:
            await perform(spec, target, timeout_s)
        except ActionFailed as error:
            if regular:
                failures, successes = failures + 1, 0
                hear(Verdict(False, failures >= int(spec.get("failureThreshold") or 3), str(error)))
                due = now() + period_s
        else:
            failures, successes, early_until = 0, successes + 1, 0.0
            hear(Verdict(True, successes >= int(spec.get("successThreshold") or 1)))
            due = now() + period_s
        pause = max(0.0, due - now())
        early = max(EARLY_PAUSE_S, (now() - begun) / EARLY_SHARE)
        await asyncio.sleep(min(pause, early) if now() < early_until else pause)
