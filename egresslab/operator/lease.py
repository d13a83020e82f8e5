"""One acts at a time: the official client's leader election on a Lease, made to sit out an API server that is away."""

from __future__ import annotations

import asyncio
import logging
import math
import time
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
REQUEST_S = 5.0
MARGIN_S = 2.0
"""For so long before others may take the lease nobody acts any more, whatever the election is waiting for."""


class PatientLeaseLock(LeaseLock):  # type: ignore[misc]  # the client is untyped here
    """A lease lock for which no answer is an answer: not acquired, not renewed, asked again.

    `renewed` is when the last request began that made the lease ours (monotonic seconds): others count from later on.
    """

    renewed = -math.inf

    async def get(self, name: str, namespace: str) -> Any:
        """As the base; a connection error counts as an unreadable lock."""
        try:
            async with asyncio.timeout(REQUEST_S):
                return await super().get(name, namespace)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return False, ApiException(status=0, reason=repr(error))

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """Anew, because the base of release 37.0 asks for `pretty=True`, which its own validation refuses."""
        began = time.monotonic()
        body = client.V1Lease(metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            async with asyncio.timeout(REQUEST_S):
                await self.api_instance.create_namespaced_lease(namespace, body)
        except (ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("cannot create the lease: %r", error)
            return False
        self.renewed = began
        return True

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        """As the base; a connection error counts as failed."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(REQUEST_S):
                done = bool(await super().update(name, namespace, updated_record))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        if done:
            self.renewed = began
        return done

    async def wait_doubtful(self) -> None:
        """Return when the lease has not been renewed for so long that others may take it soon."""
        while (left := self.renewed + LEASE_S - MARGIN_S - time.monotonic()) > 0:  # noqa: ASYNC110 - waits for time
            await asyncio.sleep(left)


async def lead(api: Api, identity: str, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Wait for the lease, then run `act`; returns when the lease is lost, raises what `act` raises.

    `act` has ended before this does, and before the lease is given back, which happens when `act` failed or the caller
    cancels: another operator then need not wait for the lease to run out.
    """
    async with client.ApiClient(await api.official()) as official:
        await _lead(api, PatientLeaseLock(NAME, NAMESPACE, identity, official), act)


async def _lead(api: Api, lock: PatientLeaseLock, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    elected = asyncio.Event()

    async def won() -> None:
        elected.set()

    election = asyncio.create_task(LeaderElection(Config(lock, LEASE_S, RENEW_DEADLINE_S, RETRY_S, won, None)).run())
    tasks: list[asyncio.Task[Any]] = [election, asyncio.create_task(elected.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if election.done():
            election.result()
            return
        acting = asyncio.create_task(act())
        tasks = [election, acting, asyncio.create_task(lock.wait_doubtful())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if acting.done():
            acting.result()
        else:
            logger.warning("lost the lease")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if elected.is_set():
            await _give_back(api, lock.identity)


async def _give_back(api: Api, identity: str) -> None:
    """Leave the lease without a holder, unless somebody else has it by now."""
    try:
        async with asyncio.timeout(REQUEST_S):
            lease = await api.get(LEASES, NAME, NAMESPACE)
        if lease["spec"].get("holderIdentity") == identity:
            guard = {"resourceVersion": lease["metadata"]["resourceVersion"]}
            await api.patch(LEASES, NAME, {"metadata": guard, "spec": {"holderIdentity": None}}, NAMESPACE)
    except (ApiError, Unreachable, TimeoutError) as error:
        logger.warning("the lease runs out by itself, it could not be given back: %r", error)
