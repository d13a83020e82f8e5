"""One acts at a time: the official client's leader election on a Lease, made to sit out an API server that is away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from egresslab.api.connection import Api

logger = logging.getLogger(__name__)

NAMESPACE = "kube-system"
NAME = "egresslab-operator"
LEASE_S = 15
RENEW_DEADLINE_S = 10
RETRY_S = 2


class PatientLeaseLock(LeaseLock):  # type: ignore[misc]  # the client is untyped here
    """A lease lock for which no answer is an answer: not acquired, not renewed, asked again."""

    async def get(self, name: str, namespace: str) -> Any:
        """As the base; a connection error counts as an unreadable lock."""
        try:
            return await super().get(name, namespace)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return False, ApiException(status=0, reason=repr(error))

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """Anew, because the base of release 37.0 asks for `pretty=True`, which its own validation refuses."""
        body = client.V1Lease(metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except (ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("cannot create the lease: %r", error)
            return False
        return True

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        """As the base; a connection error counts as failed."""
        try:
            return bool(await super().update(name, namespace, updated_record))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


async def lead(api: Api, identity: str, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Wait for the lease, then run `act`, which is cancelled when the lease is lost; returns then."""

    async def stopped() -> None:
        logger.warning("lost the lease")

    lock = PatientLeaseLock(NAME, NAMESPACE, identity, api.client)
    await LeaderElection(Config(lock, LEASE_S, RENEW_DEADLINE_S, RETRY_S, act, stopped)).run()
