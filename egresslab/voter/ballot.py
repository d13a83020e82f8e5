"""A node's voter without its sockets, maps and clocks: what it hears goes in, what it should do comes out.

Nothing here waits, reads a clock or touches the outside, so that a simulation can try what no wire would show in years:
lost, late and doubled messages, cuts in one direction, paused and forgetful voters. The rule that it must never break
is that of `vote.py`: no grant to another before the last one has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from egresslab.datapath.probe import GRANTS, Answer, GrantRequest, Request
from egresslab.datapath.values import Holder, Lease
from egresslab.voter.actions import Action, Probe, Tell
from egresslab.voter.council import Council
from egresslab.voter.files import MILLISECOND, Pace, Voting
from egresslab.voter.messages import Active, Choice, Holding, Message, Release, Target, View
from egresslab.voter.probing import Probed
from egresslab.voter.tenure import Tenure
from egresslab.voter.vote import Candidates, Vote

VIEW_NS = 50 * MILLISECOND
"""How often a voter tells the other voters what it sees, besides whenever that changes."""
DISTANT_VIEW_NS = 400 * MILLISECOND
"""How often it tells all other nodes; and how often those that do not vote say what they must."""
REFUSAL_NS = 100 * MILLISECOND
LOOK_NS = 50 * MILLISECOND
"""How often to look whether the kernel holds a lease, besides whenever something is heard."""
RESTING_VIEW_NS = 1000 * MILLISECOND
"""How often both happens while there is nothing to vote on. A view says nothing then; that there is somebody is told in
a report."""


class Ballot:
    """Times are nanoseconds of this node's CLOCK_MONOTONIC. `silent_ns`: how long to grant nothing after the start,
    which has to be T of any grant that an earlier process may have given."""

    def __init__(self, node: str, now: int, silent_ns: int) -> None:
        self.node = node
        self.council = Council(node)
        self.votes: dict[int, Vote] = {}
        self.tenures: dict[int, Tenure] = {}
        self.probed: dict[Target, Probed] = {}
        self.voting: Voting | None = None
        self.late_ns = 0
        self.macs: tuple[str, ...] = ()
        """With which this node announces addresses; told to the others."""
        self.missing_links: tuple[str, ...] = ()
        self.foreign_macs: dict[str, tuple[str, ...]] = {}
        """What other nodes told of theirs."""
        self._silent_until = now + silent_ns
        self._started = now
        self._sequence = 0
        self._ticks: dict[Pace, int] = {}
        self._viewed = now - RESTING_VIEW_NS
        self._next_distant = now
        self._down: frozenset[int] = frozenset()
        self._told: View | None = None
        self._dirty = True
        self._urgent = False
        self._refused: dict[int, int] = {}
        self._distrusted: dict[int, int] = {}

    # What goes in

    def configure(
        self,
        now: int,
        voting: Voting,
        holders: Mapping[int, Holder],
        leases: Mapping[int, Lease],
        silent: Iterable[int] = (),
    ) -> None:
        """Follow `voting.json`. What the kernel holds is adopted for every group that is new here."""
        names = {peer.address: peer.name for peer in voting.nodes}
        silent = frozenset(silent)
        self.voting = voting
        self.council.convene(voting.voters, voting.stretch)
        for group in voting.groups:
            candidates = Candidates(group, self.council)
            vote = self.votes.setdefault(group.lease, Vote(candidates, self._silent_until))
            vote.candidates = candidates
            tenure = self.tenures.get(group.lease)
            if tenure is None:
                tenure = self.tenures[group.lease] = Tenure(candidates, self.node)
                self._adopt(now, vote, tenure, names, holders.get(group.lease), leases.get(group.lease), silent)
            tenure.candidates = candidates
        for lease in self.tenures.keys() - {group.lease for group in voting.groups}:
            del self.tenures[lease]
        self._dirty = True

    def links(self, down: Iterable[int], missing: Iterable[str] = ()) -> None:
        """Leases that this node cannot serve, for a link of its own is down; and which links."""
        down = frozenset(down)
        self.missing_links = tuple(missing)
        self._dirty |= down != self._down
        self._down = down

    def answered(self, now: int, node: str, answer: Answer) -> None:
        """An answer to a probe of ours."""
        for probed in self._targets_of(node):
            if not probed.answered(now, answer):
                continue
        for state in answer.leases:
            vote = self.votes.get(state.lease)
            if vote is None or not state.epoch:
                continue
            if state.held_ms:
                self._dirty |= vote.witness(node, state.epoch, now, seen_here=True)
            else:
                vote.note(node, state.epoch)

    def told(self, now: int, message: Message) -> list[Action]:
        """A message from another node's voter."""
        match message:
            case View():
                self._heed(now, message)
                return []
            case Active():
                return self._follow(now, message)
            case Release():
                self._let_go(now, message)
                return []

    # What comes out

    def poll(self, now: int, unix: float, leases: Mapping[int, Lease]) -> list[Action]:
        """Everything that is due. `leases`: as this node's kernel holds them now; `unix`: seconds since the epoch."""
        if self.voting is None:
            return []
        actions: list[Action] = []
        self._follow_targets(now)
        due = [pace for pace, at in self._ticks.items() if at <= now]
        for pace in due:
            self._judge(now, pace)
        for lease, tenure in self.tenures.items():
            vote = self.votes[lease]
            if self._dirty:
                tenure.look = True
            found = tenure.poll(now, unix, leases.get(lease), lease in self._down, vote.held_ns)
            self._refused_here(lease, tenure.refused(now, leases.get(lease)))
            for action in found:
                if isinstance(action, Tell):
                    self._hear_oneself(now, action.message)
            actions += self._addressed(found)
        if self.council.voting:
            if self._dirty:
                self.council.tell(now, self._view(now))
            actions += self._vote(now, due)
        actions += self._tell_view(now, unix)
        return actions

    def wake(self, now: int) -> int:
        """When `poll` has something to do again, if nothing is heard until then."""
        look = (RESTING_VIEW_NS if self.resting(now) else LOOK_NS) * self.council.stretch
        waits = [self._next_view(now), now + look, *self._ticks.values()]
        waits += (wait for wait in (vote.wake_ns(now) for vote in self.votes.values()) if wait is not None)
        waits += (wait for wait in (tenure.wake_ns() for tenure in self.tenures.values()) if wait is not None)
        return min(waits)

    def resting(self, now: int) -> bool:
        """Whether there is no group here and nothing to watch, nor for any voter that was heard lately."""
        if self.tenures or self._ticks or (self.voting is not None and self.voting.watched):
            return False
        return not self.council.targets(now)

    # Probing

    def _targets_of(self, node: str) -> list[Probed]:
        return [probed for target, probed in self.probed.items() if target.node == node]

    def _follow_targets(self, now: int) -> None:
        """Candidates, whoever holds, and what others want watched; nobody else."""
        if not self._dirty or self.voting is None:
            return
        wanted: dict[Target, None] = {}
        if self.council.voting:
            known = {peer.name for peer in self.voting.nodes}
            for group in self.voting.groups:
                held = self.votes[group.lease].holder(now)
                names = [candidate.node for candidate in group.candidates] + ([held.node] if held else [])
                wanted.update({Target(name, group.pace): None for name in names if name in known})
            wanted.update({Target(item.node, item.pace): None for item in self.voting.watched})
        for target in self.probed.keys() - wanted.keys():
            del self.probed[target]
        for target in wanted:
            if target not in self.probed:
                self.probed[target] = Probed(target, self._started)
        paces = {target.pace for target in self.probed}
        self._ticks = {pace: self._ticks.get(pace, now) for pace in paces}

    def _judge(self, now: int, pace: Pace) -> None:
        late = now - self._ticks[pace]
        self.late_ns = max(self.late_ns, late)
        overslept = late > pace.interval_ns
        self._ticks[pace] = now + pace.interval_ns if overslept else self._ticks[pace] + pace.interval_ns
        for probed in self.probed.values():
            if probed.target.pace == pace:
                before = probed.seen
                probed.judge(overslept)
                self._urgent |= probed.seen != before
        self._dirty = True

    def _probe(self, now: int, probed: Probed) -> list[Action]:
        """Probes to a node with what it is granted, and questions about what it is not."""
        node = probed.target.node
        asked = [
            vote.grant(now, node, probed.heard)
            for lease, vote in self.votes.items()
            if lease in self.tenures and vote.candidates.group.pace == probed.target.pace and self._concerns(vote, node)
        ]
        parts = [asked[at : at + GRANTS] for at in range(0, len(asked), GRANTS)] or [[]]
        return [self._request(now, probed, part) for part in parts]

    def _request(self, now: int, probed: Probed, grants: list[GrantRequest]) -> Action:
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        echo = probed.heard.gateway_ns if probed.heard is not None else 0
        return Probe(probed.target.node, Request(self._sequence, now, echo, tuple(grants)))

    @staticmethod
    def _concerns(vote: Vote, node: str) -> bool:
        held = vote.evidence
        return node in vote.candidates.by_name or node == vote.choice or (held is not None and held.node == node)

    # Voting

    def _vote(self, now: int, due: list[Pace]) -> list[Action]:
        actions: list[Action] = []
        changed: set[Target] = set()
        if self._dirty or any(self.votes[lease].waiting for lease in self.tenures):
            for lease in self.tenures:
                vote = self.votes[lease]
                if vote.decide(now, self.council.votes(now, lease)) and vote.choice is not None:
                    changed.add(Target(vote.choice, vote.candidates.group.pace))
                    self._urgent = True
            self._dirty = False
        for target, probed in self.probed.items():
            if target.pace in due:
                probed.sent()
                actions += self._probe(now, probed)
            elif target in changed:
                actions += self._probe(now, probed)
        return actions

    def _view(self, now: int) -> View:
        holding = {}
        for lease, vote in self.votes.items():
            held = vote.seen_here
            if held is not None and lease in self.tenures and now - held.at_ns <= 2 * vote.duration_ns:
                holding[lease] = Holding(held.node, held.epoch, max(0, now - held.at_ns) // MILLISECOND)
        return View(
            node=self.node,
            clock=now,
            seen={target: probed.seen for target, probed in self.probed.items() if probed.seen is not None},
            votes={
                lease: Choice(vote.choice, vote.epoch)
                for lease, vote in self.votes.items()
                if vote.choice is not None and lease in self.tenures
            }
            if self.council.voting
            else {},
            holding=holding if self.council.voting else {},
            known=dict(self._distrusted),
            unfit=self._down,
            generation=self.voting.generation if self.voting is not None else 0,
        )

    def _next_view(self, now: int) -> int:
        """When to tell what this node sees: at once after a rest."""
        often = VIEW_NS if self.council.voting else DISTANT_VIEW_NS
        return self._viewed + (RESTING_VIEW_NS if self.resting(now) else often) * self.council.stretch

    def _tell_view(self, now: int, unix: float) -> list[Action]:
        """To voters often, to all others seldom, to everybody at once when something changed."""
        assert self.voting is not None
        others = tuple(peer.name for peer in self.voting.nodes if peer.name != self.node)
        voters = tuple(name for name in self.council.voters if name != self.node)
        urgent, self._urgent = self._urgent or (self._told is not None and self._told.unfit != self._down), False
        if not urgent and now < self._next_view(now):
            return []
        view = self._told = self._view(now)
        self.council.tell(now, view)
        self._viewed = now - _past_the_second(unix) if self.resting(now) else now
        if urgent or now >= self._next_distant:
            self._next_distant = now + DISTANT_VIEW_NS * self.council.stretch
            return [Tell(others if self.council.voting else voters, view)]
        return [Tell(voters, view)]

    # Hearing

    def _heed(self, now: int, view: View) -> None:
        if not self.council.tell(now, view):
            news = False
        else:
            news = True
        for lease, epoch in view.known.items():
            if lease in self.votes:
                self.votes[lease].note_known(now, epoch)
        for lease, holding in view.holding.items():
            vote = self.votes.get(lease)
            if vote is not None and view.node in self.council.voters:
                news |= vote.witness(holding.node, holding.epoch, now - holding.age_ms * MILLISECOND)
        self._dirty |= news

    def _follow(self, now: int, message: Active) -> list[Action]:
        vote, tenure = self.votes.get(message.lease), self.tenures.get(message.lease)
        if vote is None or tenure is None:
            return []
        if message.macs:
            self.foreign_macs[message.node] = message.macs
        followed = tenure.holder
        if followed is not None and message.epoch < followed.epoch:
            return self._refuse(now, message, followed.epoch)
        self._dirty |= vote.witness(message.node, message.epoch, now)
        return list(tenure.told_active(message, now))

    def _refuse(self, now: int, message: Active, epoch: int) -> list[Action]:
        """Tell a holder that this node follows a later epoch, so that its voters grant in a later one still."""
        if now - self._refused.get(message.lease, 0) < REFUSAL_NS:
            return []
        self._refused[message.lease] = now
        return [Tell((message.node, *self.council.voters), replace(self._view(now), known={message.lease: epoch}))]

    def _refused_here(self, lease: int, epoch: int | None) -> None:
        if epoch is None:
            self._distrusted.pop(lease, None)
        else:
            self._distrusted[lease] = epoch

    def _let_go(self, now: int, message: Release) -> None:
        vote, tenure = self.votes.get(message.lease), self.tenures.get(message.lease)
        if vote is None or tenure is None:
            return
        tenure.told[message.node] = message
        self._dirty |= vote.release(now, message.node, message.epoch, message.target)

    def _hear_oneself(self, now: int, message: Message) -> None:
        match message:
            case Active():
                self._dirty |= self.votes[message.lease].witness(message.node, message.epoch, now)
            case Release():
                self._let_go(now, message)
            case View():
                pass

    def _addressed(self, actions: list[Action]) -> list[Action]:
        """What is for all nodes, with their names."""
        assert self.voting is not None
        others = tuple(peer.name for peer in self.voting.nodes if peer.name != self.node)
        found: list[Action] = []
        for action in actions:
            if isinstance(action, Tell):
                told = action.message
                action = Tell(others, replace(told, macs=self.macs) if isinstance(told, Active) else told)
            found.append(action)
        return found

    def _adopt(
        self,
        now: int,
        vote: Vote,
        tenure: Tenure,
        names: Mapping[IPv4Address, str],
        holder: Holder | None,
        lease: Lease | None,
        silent: frozenset[int],
    ) -> None:
        known = None
        if holder is not None and holder.endpoint is not None and holder.endpoint in names:
            known = Choice(names[holder.endpoint], holder.epoch)
            vote.note(*known)
        if lease is not None:
            vote.known = max([vote.known, lease.epoch, *(grant.epoch for grant in lease.grants.values())])
        tenure.adopt(known, lease, tenure.lease in silent, now)


def _past_the_second(unix: float) -> int:
    """Nanoseconds since the full second, negative just before it. At rest all voters speak then, so that each of them
    wakes once for all."""
    part = unix % 1
    return round((part if part < 0.9 else part - 1) * 1_000 * MILLISECOND)
