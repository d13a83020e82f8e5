"""One acts at a time: the official client's leader election on a Lease, made to sit out an API server that is away."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection import leaderelection
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


def steady() -> float:
    """Seconds that count also while the machine sleeps, and never step (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SteadyClock:
    """What the official client's election takes for the module `time`: the wall clock of the start, and steady from
    there on. With the wall clock itself, one that is set right in a bad moment would end another's lease early."""

    _offset = time.time() - steady()

    @classmethod
    def time(cls) -> float:
        return cls._offset + steady()


leaderelection.time = SteadyClock


class PatientLeaseLock(LeaseLock):  # type: ignore[misc]  # the client is untyped here
    """A lease lock for which no answer is an answer: not acquired, not renewed, asked again.

    `renewed` is when the last request began that made the lease ours (`steady` seconds): others count from later on.
    `lost` is set when somebody else was seen to have it after us, however that came about.
    """

    renewed = -math.inf

    def __init__(self, name: str, namespace: str, identity: str, client: Any) -> None:
        super().__init__(name, namespace, identity, client)
        self.lost = asyncio.Event()

    async def get(self, name: str, namespace: str) -> Any:
        """As the base; a connection error counts as an unreadable lock."""
        try:
            async with asyncio.timeout(REQUEST_S):
                there, record = await super().get(name, namespace)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return False, ApiException(status=0, reason=repr(error))
        if there and self.renewed > 0 and record.holder_identity not in (None, self.identity):
            self.lost.set()
        return there, record

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """Anew, because the base of release 37.0 asks for `pretty=True`, which its own validation refuses."""
        began = steady()
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
        began = steady()
        try:
            async with asyncio.timeout(REQUEST_S):
                done = bool(await super().update(name, namespace, updated_record))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        if done:
            self.renewed = began
        return done

    @property
    def left_s(self) -> float:
        """How long nobody else can have the lease, for certain."""
        return 0.0 if self.lost.is_set() else self.renewed + LEASE_S - MARGIN_S - steady()

    async def wait_doubtful(self) -> None:
        """Return when somebody has the lease, or may take it soon because it has not been renewed for long."""
        while (left := self.left_s) > 0:
            try:
                async with asyncio.timeout(left):
                    await self.lost.wait()
            except TimeoutError:
                continue


@dataclass(frozen=True, slots=True)
class Term:
    """One time of leading. `name` is another one each time; `permits` says whether it still lasts, to be asked before
    every write: a process that was stopped finds out only when it goes on."""

    name: str
    permits: Callable[[], bool]


async def lead(api: Api, identity: str, act: Callable[[Term], Coroutine[Any, Any, None]]) -> None:
    """Wait for the lease, then run `act`; returns when the lease is lost, raises what `act` raises.

    `act` has ended before this does, and before the lease is given back, which happens when `act` failed or the caller
    cancels: another operator then need not wait for the lease to run out.
    """
    async with client.ApiClient(await api.official()) as official:
        await _lead(api, PatientLeaseLock(NAME, NAMESPACE, identity, official), act)


async def _lead(api: Api, lock: PatientLeaseLock, act: Callable[[Term], Coroutine[Any, Any, None]]) -> None:
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
        term = Term(f"{lock.identity}@{secrets.token_hex(4)}", lambda: lock.left_s > 0)
        acting = asyncio.create_task(act(term))
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
