"""One acts at a time: the official client's leader election on a Lease, made to sit out an API server that is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.resources import LEASES

logger = logging.getLogger(__name__)

NAMESPACE = "kube-system"
NAME = "egresslab-operator"
LEASE_S = 15
RENEW_DEADLINE_S = 10
RETRY_S = 2
REQUEST_S = 1.5
"""An attempt makes two requests, and the last one that may succeed begins just before the renewal's deadline. Were a
request to hang for longer, we would act on when another already holds the lease."""


class PatientLeaseLock(LeaseLock):  # type: ignore[misc]  # the client is untyped here
    """A lease lock for which no answer is an answer: not acquired, not renewed, asked again."""

    async def get(self, name: str, namespace: str) -> Any:
        """As the base; a connection error counts as an unreadable lock."""
        try:
            async with asyncio.timeout(REQUEST_S):
                return await super().get(name, namespace)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return False, ApiException(status=0, reason=repr(error))

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """Anew, because the base of release 37.0 asks for `pretty=True`, which its own validation refuses."""
        body = client.V1Lease(metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            async with asyncio.timeout(REQUEST_S):
                await self.api_instance.create_namespaced_lease(namespace, body)
        except (ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("cannot create the lease: %r", error)
            return False
        return True

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        """As the base; a connection error counts as failed."""
        try:
            async with asyncio.timeout(REQUEST_S):
                return bool(await super().update(name, namespace, updated_record))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


async def lead(api: Api, identity: str, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Wait for the lease, then run `act`; returns when the lease is lost, raises what `act` raises.

    `act` has ended before this does, and before the lease is given back, which happens when `act` failed or the caller
    cancels: another operator then need not wait for the lease to run out.
    """
    elected = asyncio.Event()

    async def won() -> None:
        elected.set()

    lock = PatientLeaseLock(NAME, NAMESPACE, identity, api.client)
    election = asyncio.create_task(LeaderElection(Config(lock, LEASE_S, RENEW_DEADLINE_S, RETRY_S, won, None)).run())
    acting: asyncio.Task[None] | None = None
    try:
        turn = asyncio.create_task(elected.wait())
        await asyncio.wait({turn, election}, return_when=asyncio.FIRST_COMPLETED)
        turn.cancel()
        if election.done():
            election.result()
            return
        acting = asyncio.create_task(act())
        await asyncio.wait({acting, election}, return_when=asyncio.FIRST_COMPLETED)
        if election.done():
            logger.warning("lost the lease")
            election.result()
        else:
            acting.result()
    finally:
        held = elected.is_set() and not election.done()
        for task in (acting, election):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (acting, election) if task is not None), return_exceptions=True)
        if held:
            await _give_back(api, identity)


async def _give_back(api: Api, identity: str) -> None:
    """Leave the lease without a holder, unless somebody else has it by now."""
    try:
        lease = await api.get(LEASES, NAME, NAMESPACE)
        if lease["spec"].get("holderIdentity") == identity:
            guard = {"resourceVersion": lease["metadata"]["resourceVersion"]}
            await api.patch(LEASES, NAME, {"metadata": guard, "spec": {"holderIdentity": None}}, NAMESPACE)
    except (ApiError, Unreachable) as error:
        logger.warning("the lease runs out by itself, it could not be given back: %s", error)
