"""One lease, as a node holds it or might: taking it, telling everybody, giving it up in good order.

Whether this node holds the lease is the kernel's word alone. What is done here is to notice, and, for a planned move,
to fall silent *before* a release is sent: voters that hear it no longer wait for their grants to end, so from then on
this node answers for nothing until a later epoch makes it the holder again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egresslab.datapath.values import Lease
from egresslab.voter.actions import Action, Announce, SetHolder, Silence, Tell
from egresslab.voter.files import MILLISECOND, Cause, Failback, Failover
from egresslab.voter.messages import Active, Choice, Release
from egresslab.voter.vote import Candidates

ACTIVE_MS = (0, 10, 50, 200)
"""When a new holder tells all nodes, counted from taking the lease; then every second."""
ACTIVE_PERIOD_NS = 1_000 * MILLISECOND
RELEASE_NS = 10 * MILLISECOND
"""How often a release is repeated, until somebody else is active or the lease is over."""
SYNC_PATIENCE_NS = 10_000 * MILLISECOND
"""How long an unfit holder waits for a standby that has its flow records before it takes one that has not."""
PLANNED_PAUSE_NS = 2_000 * MILLISECOND
"""Between two planned moves, so that a successor that does not take over is not tried without end."""


@dataclass(slots=True)
class Tenure:
    """This node's side of a lease. `holding`: the epoch in which it holds; `released`: up to which it has fallen
    silent."""

    candidates: Candidates
    node: str
    holder: Choice | None = None
    holding: int | None = None
    released: int = -1
    since: float | None = None
    last: Failover | None = None
    successor: tuple[str, Cause] | None = None
    next_active_ns: int = 0
    sent_active: int = 0
    taken_ns: int = 0
    next_release_ns: int = 0
    planned_ns: int | None = None
    """Since when there is a reason to move."""
    pause_until_ns: int = 0
    preferred: tuple[str, int] | None = None
    """The candidate that failback would move to, and since when it could have."""
    look: bool = True
    """Something changed since it was last looked whether to move."""
    told: dict[str, Release] = field(default_factory=dict)
    """What former holders said when they released."""

    @property
    def lease(self) -> int:
        return self.candidates.group.lease

    def adopt(self, holder: Choice | None, lease: Lease | None, silent: bool, now: int) -> None:
        """Go on where an earlier process stopped. One that holds and is silent had released, or was about to."""
        self.holder = holder
        if lease is None or holder is None or holder.node != self.node or not lease.held(now):
            return
        self.holding, self.taken_ns, self.sent_active = lease.epoch, now, len(ACTIVE_MS)
        if silent:
            self.released = lease.epoch

    def told_active(self, message: Active, now: int) -> list[Action]:
        """Another node says that it holds. An earlier holder than the one known is not followed."""
        if message.node == self.node or (self.holder is not None and message.epoch < self.holder.epoch):
            return []
        moved = self.holder is None or message.node != self.holder.node
        known = self.holder == Choice(message.node, message.epoch)
        self.holder = Choice(message.node, message.epoch)
        if moved or self.since is None:
            self.since = message.time or None
        if message.origin != message.node and (moved or self.last is None) and message.time:
            self.last = Failover(message.time, message.origin, message.node, message.cause, message.outage_ms)
        return [] if known else [SetHolder(self.lease, *self.holder)]

    def poll(self, now: int, unix: float, lease: Lease | None, down: bool, seen: Mapping[str, int]) -> list[Action]:
        """What to do now. `down`: a link that this lease needs is down. `seen`: when each
        node was last seen to hold."""
        actions: list[Action] = []
        held = lease is not None and lease.held(now)
        if lease is None or not held:
            self.holding = None
        elif lease.epoch > max(self.released, self.holding or -1) and lease.epoch >= self._followed:
            actions += self._take(now, unix, lease.epoch, seen)
        if self.holding is None:
            self.planned_ns = self.successor = None
            return actions
        if self.holder is not None and self.holder.node != self.node:
            return actions
        if self.released < self.holding:
            actions += self._plan(now, down)
        elif self.successor is None:  # a process before this one released, and it is still here: say so again
            self._aim(now, Cause.UNFIT)
        if self.released >= self.holding:
            actions += self._tell_release(now)
        else:
            actions += self._tell_active(now)
        return actions

    def refused(self, now: int, lease: Lease | None) -> int | None:
        """The epoch that voters have to exceed, so that what they grant here counts: nodes follow a later one already,
        or a voter that has forgotten it granted in a later one."""
        if lease is None or not lease.held(now):
            return None
        greatest = max(self._followed, *(grant.epoch for grant in lease.grants.values()), lease.epoch)
        return greatest if greatest > lease.epoch else None

    @property
    def _followed(self) -> int:
        return self.holder.epoch if self.holder is not None else 0

    def wake_ns(self) -> int | None:
        """When something is to be sent."""
        if self.holding is None or (self.holder is not None and self.holder.node != self.node):
            return None
        return self.next_release_ns if self.released >= self.holding else self.next_active_ns

    def _take(self, now: int, unix: float, epoch: int, seen: Mapping[str, int]) -> list[Action]:
        before, mine = self.holder, self.holder is not None and self.holder.node == self.node
        again = mine and self.released < (self.holder.epoch if self.holder else 0)
        self.holding, self.holder = epoch, Choice(self.node, epoch)
        self.taken_ns = self.next_active_ns = now
        self.sent_active = 0
        self.planned_ns = self.successor = None
        if not again:
            self.since = unix
            self.last = self.last if mine else self._move(now, unix, before, seen)
        found: list[Action] = [SetHolder(self.lease, self.node, epoch), Silence(self.lease, False)]
        return found if again else [*found, Announce(self.lease)]

    def _move(self, now: int, unix: float, before: Choice | None, seen: Mapping[str, int]) -> Failover:
        """How the lease came here, for those who ask later."""
        if before is None:
            return Failover(unix, None, self.node, Cause.FIRST, None)
        farewell = self.told.get(before.node)
        if farewell is not None and farewell.epoch >= before.epoch:
            return Failover(unix, before.node, self.node, farewell.cause, 0.0)
        outage = (now - seen[before.node]) / MILLISECOND if before.node in seen else None
        return Failover(unix, before.node, self.node, Cause.LOST, outage)

    def _plan(self, now: int, down: bool) -> list[Action]:
        """Release, when there is a reason to and somebody to follow."""
        if not self.look:
            return []
        self.look = False
        cause = self._reason(now, down)
        if cause is None:
            self.planned_ns = None
            return []
        self.planned_ns = self.planned_ns or now
        if now < self.pause_until_ns or not self._aim(now, cause):
            return []
        assert self.holding is not None
        self.released = self.holding
        self.pause_until_ns = now + PLANNED_PAUSE_NS
        self.next_release_ns = now
        return [Silence(self.lease, True)]

    def _reason(self, now: int, down: bool) -> Cause | None:
        if down:
            return Cause.LINK
        mine = self.candidates.by_name.get(self.node)
        if mine is None or not mine.fit:
            return Cause.UNFIT
        group = self.candidates.group
        first = next(iter(self.candidates.electable(now)), self.node)
        order = list(self.candidates.by_name)
        if group.failback is Failback.NEVER or order.index(first) >= order.index(self.node):
            self.preferred = None
            return None
        if self.preferred is None or self.preferred[0] != first:
            self.preferred = first, now
        delay = group.failback_delay_s if group.failback is Failback.DELAYED else 0.0
        return Cause.FAILBACK if now - self.preferred[1] >= delay * 1_000 * MILLISECOND else None

    def _aim(self, now: int, cause: Cause) -> bool:
        """Choose a successor; False while there is none, or none that has what it needs."""
        others = [name for name in self.candidates.electable(now) if name != self.node]
        if cause is Cause.FAILBACK:
            others = others[:1]
        synced = [name for name in others if self.candidates.by_name[name].synced]
        patient = cause is not Cause.LINK and now - (self.planned_ns or now) < SYNC_PATIENCE_NS
        choice = next(iter(synced or ([] if patient else others)), None)
        if choice is not None:
            self.successor = choice, cause
        return choice is not None

    def _tell_release(self, now: int) -> list[Action]:
        if self.successor is None or now < self.next_release_ns:
            return []
        self.next_release_ns = now + RELEASE_NS
        target, cause = self.successor
        return [Tell((), Release(self.node, self.lease, self.released, target, cause))]

    def _tell_active(self, now: int) -> list[Action]:
        if now < self.next_active_ns:
            return []
        self.sent_active += 1
        if self.sent_active < len(ACTIVE_MS):
            self.next_active_ns = self.taken_ns + ACTIVE_MS[self.sent_active] * MILLISECOND
        else:
            self.next_active_ns = now + ACTIVE_PERIOD_NS
        assert self.holding is not None
        told, last = Active(self.node, self.lease, self.holding), self.last
        if last is not None and last.target == self.node:
            told = Active(
                self.node, self.lease, self.holding, last.origin, last.cause, last.outage_ms, self.since or 0.0
            )
        return [Tell((), told)]
