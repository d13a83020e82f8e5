"""What helm asks of a release: `python -m egresslab.operator.release check | end [--timeout SECONDS]`.

`check` (`helm test`) waits until one operator leads and every agent is ready. `end` (before an uninstall) stops the
operators, has every agent take what is ours off its node, and removes what the operators made. Both say on stdout what
they see, and exit 1 when the time is up. Neither touches a policy.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from egresslab.agent.farewell import ENDING, STATE
from egresslab.agent.farewell import NAME as RELEASE
from egresslab.api.connection import Api, ApiError, Unreachable, connect
from egresslab.api.resources import CONFIGMAPS, DAEMONSETS, DEPLOYMENTS, LEASES, Object, Resource
from egresslab.api.settings import NAMESPACE
from egresslab.api.voters import NAME as VOTERS
from egresslab.operator import lease
from egresslab.operator.lease import LEASE_S

AGENTS = "egresslab-agent"
OPERATORS = "egresslab-operator"
PAUSE_S = 1.0


async def _find(api: Api, resource: Resource, name: str) -> Object | None:
    try:
        return await api.get(resource, name, NAMESPACE)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


async def troubles(api: Api, agents: str = AGENTS) -> list[str]:
    """What keeps the release from being complete; raises `ApiError` and `Unreachable`."""
    found = []
    held = await _find(api, LEASES, lease.NAME)
    if not _led(held):
        found.append(f"no operator leads: lease {NAMESPACE}/{lease.NAME} is not held")
    operators = await _find(api, DEPLOYMENTS, OPERATORS)
    wanted, ready = _count(operators, "replicas"), _count(operators, "readyReplicas")
    if operators is None or ready < wanted:
        found.append(f"{ready} of {wanted} operators are ready")
    found_agents = await _find(api, DAEMONSETS, agents)
    wanted, ready = _count(found_agents, "desiredNumberScheduled"), _count(found_agents, "numberReady")
    if not wanted or ready < wanted:
        found.append(f"{ready} of {wanted} agents are ready")
    return found


def _led(held: Object | None) -> bool:
    spec: Any = (held or {}).get("spec") or {}
    if not spec.get("holderIdentity") or not spec.get("renewTime"):
        return False
    renewed = datetime.fromisoformat(str(spec["renewTime"]).replace("Z", "+00:00"))
    return datetime.now(UTC) - renewed.astimezone(UTC) < timedelta(seconds=LEASE_S)


def _count(obj: Object | None, field: str) -> int:
    return int(((obj or {}).get("status") or {}).get(field) or 0)


async def check(api: Api, agents: str = AGENTS) -> None:
    """Return when nothing is missing; `agents` is the DaemonSet that must be ready."""
    said: list[str] = []
    while True:
        try:
            found = await troubles(api, agents)
        except Unreachable as error:
            found = [str(error)]
        if not found:
            print("one operator leads, and every agent is ready", flush=True)
            return
        if found != said:
            print("\n".join(f"waiting: {line}" for line in found), flush=True)
        said = found
        await asyncio.sleep(PAUSE_S)


async def end(api: Api) -> None:
    """Return when no agent has anything on its node any more."""
    if await _find(api, DEPLOYMENTS, OPERATORS) is not None:
        await api.patch(DEPLOYMENTS, OPERATORS, {"spec": {"replicas": 0}}, NAMESPACE, subresource="scale")
        while _count(await _find(api, DEPLOYMENTS, OPERATORS), "replicas"):  # noqa: ASYNC110 - told by the API alone
            await asyncio.sleep(PAUSE_S)
    for resource, name in ((LEASES, lease.NAME), (CONFIGMAPS, VOTERS)):
        try:
            await api.delete(resource, name, NAMESPACE)
        except ApiError as error:
            if error.status != 404:
                raise
    await api.patch(CONFIGMAPS, RELEASE, {"data": {STATE: ENDING}}, NAMESPACE)
    left = -1
    while ready := _count(await _find(api, DAEMONSETS, AGENTS), "numberReady"):
        if ready != left:
            print(f"waiting: {ready} agents still have programs on their nodes", flush=True)
        left = ready
        await asyncio.sleep(PAUSE_S)
    print("no node carries anything of the release any more", flush=True)


async def main(action: str, agents: str, timeout_s: float) -> int:
    """Exit code."""
    async with connect() as api:
        try:
            async with asyncio.timeout(timeout_s):
                await (check(api, agents) if action == "check" else end(api))
        except TimeoutError:
            print(f"not within {timeout_s:g} s", file=sys.stderr)
            return 1
        except (ApiError, Unreachable) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="egresslab-release", description=__doc__)
    parser.add_argument("action", choices=("check", "end"))
    parser.add_argument("--agents", default=AGENTS, help=f"name of the DaemonSet (default: {AGENTS})")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds (default: 60)")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.action, arguments.agents, arguments.timeout)))
