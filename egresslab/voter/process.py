"""The voter's process: sockets, clock and maps around the ballot, in one loop that waits in one place only.

Not asyncio: a callback that is queued behind others is late, and here lateness is what an outage is made of. Each turn
reads everything that waits, lets the ballot decide once, and does what it says. Garbage collection is done by hand, in
quiet moments.

When it is told to stop it releases nothing: another process takes its place in a moment, and until then the kernel goes
on answering probes, so that a roll-out of agents moves no lease.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import time
from collections.abc import Iterable
from ipaddress import IPv4Address

from egresslab.datapath.probe import pack_answer, pack_request, unpack_answer, unpack_request
from egresslab.errors import DatapathError
from egresslab.voter.actions import Action, Announce, Probe, SetHolder, Silence, Tell
from egresslab.voter.addresses import Addresses
from egresslab.voter.ballot import Ballot
from egresslab.voter.files import MILLISECOND, Group, Report, Voting, read_report
from egresslab.voter.ground import Ground
from egresslab.voter.kernel import Kernel
from egresslab.voter.links import Links, down
from egresslab.voter.messages import Choice, pack, unpack
from egresslab.voter.neighbours import Neighbours
from egresslab.voter.priority import hurry
from egresslab.voter.reporting import Reporter
from egresslab.voter.settings import Settings
from egresslab.voter.sockets import Datagrams, message_socket, probe_socket
from egresslab.voter.userland import Userland
from egresslab.voter.votingfile import VotingFile

logger = logging.getLogger(__name__)

RETRY_S = 0.1
LONGEST_WAIT_NS, RESTING_LOOK_NS = 50 * MILLISECOND, 500 * MILLISECOND
"""How often to look at the agent's file if nobody says that it is another; less often while there is nothing to vote
on, but often enough for the kernel to tell others that this process lives."""
FILE_NS = 50 * MILLISECOND
LINK_NS = 1_000 * MILLISECOND
COLLECT_NS = 10_000 * MILLISECOND
QUIET_NS = 5 * MILLISECOND
LEAST_SILENCE_NS = 250 * MILLISECOND


class Process:
    """Runs until `stop` is called, which a signal handler may do at any moment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.stopping = False
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._file = VotingFile(settings.voting)
        self._next_file_ns = self._next_link_ns = self._next_collect_ns = self._due_ns = 0
        self._poll = select.epoll()
        self._waited_for: set[int] = set()
        self._ready: set[int] = set()

    def stop(self) -> None:
        """End soon, whatever is waited for."""
        self.stopping = True
        os.eventfd_write(self._alarm, 1)

    def run(self) -> None:
        """Wait for the agent's file and the maps, adopt what the kernel holds, and vote."""
        self._settings.ready.unlink(missing_ok=True)
        realtime = hurry()
        if not realtime:
            logger.warning("no real-time priority: on a busy node a healthy gateway may be called lost")
        voting = self._await_voting()
        kernel = self._await_ground()
        if voting is None or kernel is None:
            return
        self._voting, self._kernel = voting, kernel
        self._own = _address(voting)
        self._probes, self._messages = self._await_sockets(self._own)
        now = time.monotonic_ns()  # not before: until then an earlier process may have granted
        self._links, self._neighbours = Links(), Neighbours()
        silence_ns = self._silence(voting)
        self._ready_ns: int | None = now + silence_ns
        self._ballot = Ballot(voting.node, now, silence_ns)
        self._addresses = Addresses(kernel.maps, self._neighbours)
        self._reporter = Reporter(self._settings.report, realtime)
        try:
            self._adopt(now, voting)
            gc.collect()
            gc.freeze()
            gc.disable()
            while not self.stopping:
                self._turn()
        finally:
            self._settings.ready.unlink(missing_ok=True)
            for opened in (self._probes, self._messages, self._links, self._neighbours, self._kernel, self._poll):
                opened.close()
        logger.info("stopped; the kernel goes on")

    # One turn

    def _turn(self) -> None:
        self._wait()
        self._hear()
        now = time.monotonic_ns()
        if self._rests(now):
            self._kernel.beat(now)
            return
        self._follow_file(now)
        self._follow_links(now)
        if self._kernel.replaced(now):
            logger.info("other maps are in place")
            self._addresses = Addresses(self._kernel.maps, self._neighbours)
            self._adopt(now, self._voting, again=True)
        self._kernel.beat(now)
        urgent, leases = False, self._kernel.leases()
        for _ in range(3):  # one's own grants are answered at once, and may decide something
            now = time.monotonic_ns()
            actions = self._ballot.poll(now, time.time(), leases)
            if not actions:
                break
            urgent |= self._act(actions)
            leases = self._kernel.leases()
        now = time.monotonic_ns()
        self._addresses.hold(
            [
                lease
                for lease, tenure in self._ballot.tenures.items()
                if tenure.holding is not None and tenure.released < tenure.holding
            ],
            now,
        )
        self._addresses.run(now)
        self._addresses.absent = self._kernel.carry(now, leases)
        try:
            if self._ready_ns is not None and now > self._ready_ns:
                self._settings.ready.touch()
                self._ready_ns = None
            if self._reporter.run(now, time.time(), self._ballot, self._addresses, leases, urgent):
                self._kernel.forget(now, self._voting)
        except OSError as error:
            logger.error("cannot write to %s: %s", self._settings.run_dir, error)

    def _rests(self, now: int) -> bool:
        """Whether there is nothing to vote on, nothing is due, and nothing happened but that others said so: most turns
        of a node without gateways, which should cost next to nothing."""
        if now >= self._due_ns or self._ready_ns is not None or self._links.fileno() in self._ready:
            return False
        if not self._ballot.resting(now):
            return False
        if self._file.changed():
            self._next_file_ns = 0
            return False
        return True

    def _wait(self) -> None:
        now = time.monotonic_ns()
        resting = self._ballot.resting(now)
        self._due_ns = min(self._ballot.wake(now), self._reporter.wake_ns(resting))
        if not resting:  # otherwise there are no addresses
            self._due_ns = min(self._due_ns, self._addresses.wake_ns())
        if self._ready_ns is not None:
            self._due_ns = min(self._due_ns, self._ready_ns + 1)
        longest = RESTING_LOOK_NS if resting else LONGEST_WAIT_NS * self._voting.stretch
        wake = min(self._due_ns, now + longest)
        if wake - now > QUIET_NS and now >= self._next_collect_ns:
            self._next_collect_ns = now + COLLECT_NS
            gc.collect(1)
            now = time.monotonic_ns()
        self._watch()
        while True:
            self._ready = {fd for fd, _ in self._poll.poll(max(0, wake - now) / 1e9)}
            now = time.monotonic_ns()
            if self._ready or self.stopping or not self._rests(now):
                return
            self._kernel.beat(now)
            wake = min(self._due_ns, now + longest)

    def _watch(self) -> None:
        """Wait for every socket that is open now."""
        sockets = (self._probes, self._messages, self._links)
        wanted = {self._alarm, *(each.fileno() for each in sockets), *self._neighbours.filenos()}
        for fd in wanted - self._waited_for:
            self._poll.register(fd, select.EPOLLIN)
        self._waited_for = wanted

    def _watch_anew(self) -> None:
        """After a socket was closed, whose descriptor's number another may have now."""
        self._poll.close()
        self._poll = select.epoll()
        self._waited_for = set()

    def _hear(self) -> None:
        names = self._names
        for raw, source in self._probes.drain():
            answer, node = unpack_answer(raw), names.get(source)
            if answer is not None and node is not None:
                self._ballot.answered(time.monotonic_ns(), node, answer)
            elif answer is None:
                self._asked(raw, source)
        for raw, source in self._messages.drain():
            try:
                message = unpack(raw)
            except ValueError as error:
                logger.debug("from %s: %s", source, error)
                continue
            if names.get(source) == message.node:
                self._act(self._ballot.told(time.monotonic_ns(), message))
        if self._ready.isdisjoint(self._neighbours.filenos()):
            return
        ours: set[str] | None = None
        for claim, interface in self._neighbours.claims():
            ours = self._candidates_macs() if ours is None else ours
            now, unix = time.monotonic_ns(), time.time()
            if ours and self._addresses.claimed(now, unix, claim, interface, ours):
                logger.warning("%s is claimed by %s on %s", claim.address, claim.mac, interface)

    def _asked(self, raw: bytes, source: str) -> None:
        """A probe that came to this process, because there is no program to answer it."""
        request = unpack_request(raw)
        answer = self._kernel.asked(request, IPv4Address(source)) if request is not None else None
        if answer is not None:
            self._probes.send(pack_answer(answer), IPv4Address(source))

    def _act(self, actions: Iterable[Action]) -> bool:
        """Do it; whether it is worth telling the agent at once."""
        told = False
        for action in actions:
            try:
                told |= self._do(action)
            except DatapathError as error:
                logger.error("%s", error)
        return told

    def _do(self, action: Action) -> bool:
        match action:
            case Probe(node, request) if node == self._voting.node:
                answer = self._kernel.probe(request, self._own)
                if answer is not None:
                    self._ballot.answered(time.monotonic_ns(), node, answer)
            case Probe(node, request):
                address = self._peers.get(node)
                if address is not None:
                    self._probes.send(pack_request(request), address)
            case Tell(nodes, message):
                raw = pack(message)
                for node in dict.fromkeys(nodes):
                    address = self._peers.get(node)
                    if address is not None and node != self._voting.node:
                        self._messages.send(raw, address)
            case SetHolder(lease, node, epoch):
                self._kernel.set_holder(lease, Choice(node, epoch), self._voting.node, self._peers)
                key = self._ballot.tenures[lease].candidates.group.key
                logger.info("%s: %s holds the lease, epoch %d", key, node, epoch)
                return True
            case Silence(lease, silent):
                self._addresses.silence(lease, silent)
                return True
            case Announce(lease):
                self._addresses.taken(lease, time.monotonic_ns())
        return False

    # What is followed

    def _adopt(self, now: int, voting: Voting, again: bool = False) -> None:
        """Go on where an earlier process stopped, or with maps that hold nothing yet."""
        if again:
            for lease, tenure in self._ballot.tenures.items():
                if tenure.holder is not None:
                    self._kernel.set_holder(lease, tenure.holder, voting.node, self._peers)
        silent = self._addresses.adopt()
        if again:
            self._addresses.silent = {
                lease for lease, tenure in self._ballot.tenures.items() if tenure.released >= (tenure.holding or 0)
            }
        self._configure(now, voting, silent)

    def _configure(self, now: int, voting: Voting, silent: Iterable[int] = ()) -> None:
        self._voting = voting
        self._peers = {peer.name: peer.address for peer in voting.nodes}
        self._names = {str(peer.address): peer.name for peer in voting.nodes}
        self._kernel.configure(voting)
        self._ballot.configure(now, voting, self._kernel.maps.holders(), self._kernel.leases(), silent)
        self._see_links(now)

    def _follow_file(self, now: int) -> None:
        """The agent's file, when it is another; one that cannot be read leaves things as they are."""
        if now < self._next_file_ns:
            return
        self._next_file_ns = now + FILE_NS * self._voting.stretch
        voting = self._file.read()
        if voting is None:
            return
        if _address(voting) != self._own:
            self._own = _address(voting)
            self._probes.close()
            self._messages.close()
            self._probes, self._messages = self._await_sockets(self._own)
            self._watch_anew()
        self._configure(now, voting, self._addresses.silent)

    def _follow_links(self, now: int) -> None:
        if self._links.drain() or now >= self._next_link_ns:
            self._see_links(now)

    def _see_links(self, now: int) -> None:
        """Which links are there, which are missing, and which leases that concerns."""
        self._next_link_ns = now + LINK_NS
        mine = self._own_groups()
        names = {name for group in mine for name in group.announce}
        if self._neighbours.follow(names, {address for group in mine for address in group.addresses}):
            self._watch_anew()
            self._addresses.announce_anew(now)
        links = self._neighbours.links
        self._ballot.macs = tuple(sorted({link.mac_text for link in links.values()}))
        self._addresses.configure(mine, {name: link.index for name, link in links.items()}, now)
        missing = down(names | {name for group in mine for name in group.wires})
        concerned = (group.lease for group in mine if not set(missing).isdisjoint((*group.announce, *group.wires)))
        self._ballot.links(concerned, missing)

    def _own_groups(self) -> list[Group]:
        return [group for group in self._voting.groups if any(c.node == self._voting.node for c in group.candidates)]

    def _candidates_macs(self) -> set[str]:
        """Of everybody who may rightly claim our addresses."""
        told = {mac for group in self._voting.groups for candidate in group.candidates for mac in candidate.macs}
        return told.union(self._ballot.macs, *self._ballot.foreign_macs.values())

    # The beginning

    def _await_voting(self) -> Voting | None:
        said = False
        while not self.stopping:
            voting = self._file.read()
            if voting is not None:
                return voting
            if not said:
                logger.info("waiting for %s, which the agent writes", self._settings.voting)
                said = True
            time.sleep(RETRY_S)
        return None

    def _await_ground(self) -> Ground | None:
        if self._settings.pin_dir is None:
            return Userland(self._last_report())
        said = False
        while not self.stopping:
            try:
                return Kernel(self._settings.pin_dir)
            except DatapathError as error:
                if not said:
                    logger.info("waiting for the datapath: %s", error)
                    said = True
                time.sleep(RETRY_S)
        return None

    def _last_report(self) -> Report | None:
        try:
            return read_report(self._settings.report)
        except (ValueError, OSError):
            return None

    def _await_sockets(self, address: IPv4Address) -> tuple[Datagrams, Datagrams]:
        """Both ports. While an earlier process has them it is the voter, and two on one node there must not be."""
        said = False
        while True:
            try:
                probes = probe_socket(address, self._settings.probe_port)
                try:
                    return probes, message_socket(address, self._settings.message_port)
                except OSError:
                    probes.close()
                    raise
            except OSError as error:
                if self.stopping:
                    raise
                if not said:
                    logger.warning("cannot have the ports on %s yet: %s", address, os.strerror(error.errno or 0))
                    said = True
                time.sleep(RETRY_S)

    def _silence(self, voting: Voting) -> int:
        """How long grants of an earlier process may last, going by what it said and by what is asked for now."""
        durations = [group.pace.duration_ns for group in voting.groups]
        report = self._last_report()
        if report is not None:
            durations += [lease.duration_ms * MILLISECOND for lease in report.leases]
        longest = max(durations, default=0)
        return max(LEAST_SILENCE_NS, longest + longest // 64 + 5 * MILLISECOND)


def _address(voting: Voting) -> IPv4Address:
    return next(peer.address for peer in voting.nodes if peer.name == voting.node)
