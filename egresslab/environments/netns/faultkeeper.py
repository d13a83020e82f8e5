"""Carries out Fault objects: `python -m egresslab.environments.netns.faultkeeper --lab NAME`, under the supervisor.

It breaks while an object is there and mends when the object is deleted or its time is over; a finalizer holds a
deleted object back until that is done, so that `kubectl delete` waits for it. It may be killed at any moment: what it
has broken is on record, and time runs on without the API server.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from egresslab.api.connection import Api, ApiError, Unreachable, connect
from egresslab.api.reflector import Reflector
from egresslab.api.resources import FAULTS, Object
from egresslab.environments.base import Fault
from egresslab.environments.netns import faults
from egresslab.environments.netns.agentkill import kill_agent
from egresslab.environments.netns.faultclaims import (
    Claim,
    Type,
    Wish,
    drop_claim,
    read_claims,
    wish_of,
    write_claim,
)
from egresslab.environments.netns.labrecord import LabRecord, Stage, read_lab
from egresslab.environments.netns.locks import Busy
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.topology import Topology
from egresslab.errors import EnvironmentFailure

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
"""Between two looks at what somebody may have mended by hand, while there is anything to be mended."""
OVER = ("Healed", "Failed")
FINALIZER = "egresslab.dev/mended"


class Said(NamedTuple):
    """What a status is to say."""

    phase: str
    message: str = ""


class Hands(Protocol):
    """Who breaks and mends, whatever a lab's nodes are made of. Each may take seconds, and raises `EnvironmentFailure`,
    or `Busy` for what may be possible later."""

    def in_force(self) -> tuple[Fault, ...]:
        """What is broken on purpose right now."""

    def break_(self, fault: Fault) -> None:
        """Break something."""

    def mend(self, fault: Fault) -> None:
        """Mend one fault and leave every other one in force; one that is not in force changes nothing."""

    def kill_agent(self, node: str) -> None:
        """Kill the agent of a node as a crash of the program would."""


class _Namespaces:
    def __init__(self, paths: LabPaths, record: LabRecord) -> None:
        self._paths, self._record = paths, record

    def in_force(self) -> tuple[Fault, ...]:
        return faults.in_force(self._paths)

    def break_(self, fault: Fault) -> None:
        faults.break_(self._paths, self._record, fault)

    def mend(self, fault: Fault) -> None:
        faults.mend(self._paths, self._record, fault)

    def kill_agent(self, node: str) -> None:
        kill_agent(self._paths, node)


class FaultKeeper:
    """The faults that the objects of one lab ask for; claims are kept in the directory `claims`."""

    def __init__(
        self, hands: Hands, topology: Topology, claims: Path, api: Api, clock: Callable[[], float] = time.time
    ) -> None:
        self._hands = hands
        self._claims = claims
        self._topology = topology
        self._api = api
        self._clock = clock
        self._wake = asyncio.Event()
        self._objects = Reflector(api, FAULTS, lambda change: self._wake.set())
        self._said: dict[str, Said] = {}
        """By UID. What we mean counts, not the copy that a watch gave us: that may be older than what we did."""

    async def run(self) -> None:
        """Until cancelled. Time that is over is looked at before the API server has ever answered."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._objects.run())
            while True:
                self._wake.clear()
                await self._look()
                try:
                    async with asyncio.timeout(self._pause()):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def _pause(self) -> float | None:
        """Until time alone may ask for something; None while there is no fault, begun or wished for."""
        claims = read_claims(self._claims).values()
        if not claims and not len(self._objects):
            return None
        ends = [claim.until - self._clock() for claim in claims if claim.lasting and claim.until is not None]
        return max(0.05, min([PERIOD_S, *ends]))

    async def _look(self) -> None:
        known = {obj["metadata"]["uid"]: obj for obj in self._objects}
        objects = {uid: obj for uid, obj in known.items() if "deletionTimestamp" not in obj["metadata"]}
        for claim in read_claims(self._claims).values():
            await self._review(claim, objects.get(claim.uid))
        claimed = read_claims(self._claims)
        for uid, obj in known.items():
            if uid not in objects and uid not in claimed:
                await self._hold(obj, hold=False)
        for obj in objects.values():
            if self._meant(obj).phase not in OVER:
                await self._begin(obj)
            await self._tell(obj)
        self._said = {uid: said for uid, said in self._said.items() if uid in objects}

    def _meant(self, obj: Object) -> Said:
        status = obj.get("status") or {}
        return self._said.get(obj["metadata"]["uid"], Said(status.get("phase", ""), status.get("message", "")))

    async def _review(self, claim: Claim, obj: Object | None) -> None:
        """Mend what is to be mended; let go of what was mended by other hands or happened once."""
        if obj is None:
            if self._objects.synced.is_set():
                await self._mend(claim, "the object is gone")
                return
        elif not claim.lasting:
            self._said[claim.uid] = Said("Healed", f"killed once: {claim.fault.target}")
            if (obj.get("status") or {}).get("phase") == "Healed":
                drop_claim(self._claims, claim.uid)
            return
        if claim.lasting and claim.fault not in self._hands.in_force():
            drop_claim(self._claims, claim.uid)
            # Without ever having been active, it was interrupted before it happened, and begins anew.
            if obj is not None and self._meant(obj).phase == "Active":
                self._said[claim.uid] = Said("Healed", "mended by hand")
        elif claim.until is not None and self._clock() >= claim.until:
            await self._mend(claim, "its time is over")

    async def _mend(self, claim: Claim, why: str) -> None:
        others = [other for other in read_claims(self._claims).values() if other.uid != claim.uid]
        try:
            if claim.lasting and all(other.fault != claim.fault for other in others):
                await _apart(lambda: self._hands.mend(claim.fault))
        except EnvironmentFailure as error:
            logger.warning("%s stays broken for now: %s", claim.name, error)
            return
        drop_claim(self._claims, claim.uid)
        logger.info("%s is mended: %s", claim.name, why)
        self._said[claim.uid] = Said("Healed", why)

    async def _begin(self, obj: Object) -> None:
        """Do what an object asks for, unless it was done; what cannot be done is said and left."""
        uid = obj["metadata"]["uid"]
        claim = read_claims(self._claims).get(uid)
        if claim is not None:
            self._said[uid] = _in_force(claim)
        elif self._meant(obj).phase == "Active":
            self._said[uid] = Said("Healed", "mended")
        else:
            try:
                wish = wish_of(obj, self._topology)
                self._said.setdefault(uid, Said("Pending"))
                await self._tell(obj)
                await self._hold(obj, hold=True)
                await self._strike(wish)
            except Busy as error:
                drop_claim(self._claims, uid)
                self._said[uid] = Said("Pending", error.message)
            except EnvironmentFailure as error:
                claim = read_claims(self._claims).get(uid)
                if claim is not None:
                    await self._mend(claim, "it failed")
                self._said[uid] = Said("Failed", str(error))

    async def _hold(self, obj: Object, *, hold: bool) -> None:
        """Put our finalizer on an object, or take it off. An API server that is away is asked again at the next look; a
        fault that was done without a finalizer is mended all the same, only nobody waits for it."""
        finalizers = [name for name in obj["metadata"].get("finalizers") or () if name != FINALIZER]
        wanted = [*finalizers, FINALIZER] if hold else finalizers
        if wanted == (obj["metadata"].get("finalizers") or []):
            return
        version = {} if hold else {"resourceVersion": obj["metadata"]["resourceVersion"]}
        try:
            await self._api.patch(FAULTS, obj["metadata"]["name"], {"metadata": {"finalizers": wanted, **version}})
        except (ApiError, Unreachable) as error:
            logger.info("finalizer of %s: %s", obj["metadata"]["name"], error)

    async def _strike(self, wish: Wish) -> None:
        until = self._clock() + wish.duration_s if wish.duration_s is not None else None
        claim = Claim(wish.uid, wish.name, wish.fault, until)
        write_claim(self._claims, claim)
        if wish.type is Type.AGENT_KILL:
            await _apart(lambda: self._hands.kill_agent(wish.target))
        else:
            await _apart(lambda: self._hands.break_(wish.fault))
        logger.info("%s: %s of %s", wish.name, wish.type, wish.target)
        self._said[wish.uid] = _in_force(claim)

    async def _tell(self, obj: Object) -> None:
        """Write a status where it says something else; an API server that is away hears it later."""
        said = self._meant(obj)
        known, generation = obj.get("status") or {}, obj["metadata"].get("generation", 0)
        wanted = {"phase": said.phase or "Pending", "message": said.message, "observedGeneration": generation}
        if all(known.get(field) == value for field, value in wanted.items()):
            return
        try:
            await self._api.patch(FAULTS, obj["metadata"]["name"], {"status": wanted}, subresource="status")
        except (ApiError, Unreachable) as error:
            logger.warning("cannot say that %s is %s: %s", obj["metadata"]["name"], said.phase, error)


def _in_force(claim: Claim) -> Said:
    if not claim.lasting:
        return Said("Healed", f"killed once: {claim.fault.target}")
    if claim.until is None:
        return Said("Active", "until this object is deleted")
    return Said("Active", f"until {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(claim.until))}")


async def _apart(work: Callable[[], object]) -> None:
    """In a thread: breaking and mending wait for locks, processes and the kernel for seconds, and watches must go on.
    One at a time."""
    await asyncio.to_thread(work)


async def keep(hands: Hands, topology: Topology, claims: Path, kubeconfig: Path) -> None:
    """Keep the faults of a lab until told to stop."""
    async with connect(kubeconfig) as api:
        running = asyncio.create_task(FaultKeeper(hands, topology, claims, api).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        try:
            await running
        except asyncio.CancelledError:
            logger.info("stopped; what is broken stays so until the next one looks")


async def _keep(lab: str) -> None:
    paths = LabPaths(lab)
    record = read_lab(paths)
    if record is None or record.stage is Stage.BUILDING:
        raise EnvironmentFailure("is not up", object=f"lab {lab}", fix=f"egresslab up --lab {lab}")
    await keep(_Namespaces(paths, record), record.parsed_topology(), paths.fault_objects, paths.kubeconfig)


def main() -> None:
    """Entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_keep(parser.parse_args().lab))


if __name__ == "__main__":
    main()
