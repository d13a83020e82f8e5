"""What the voter of this node is told: who votes, and who may hold which lease, as `voting.json` says it.

Pure: from the engine's decisions and what this node knows of itself. The voter alone decides who is alive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from egresslab.agent.interfaces import NodeInterface
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.voters import VoterSet, parse_voters
from egresslab.datapath.leases import lease_number
from egresslab.errors import ClusterError
from egresslab.policy.engine import Engine
from egresslab.policy.inventory import ActiveChoice, Node, Ref, Value
from egresslab.policy.model import Dialect, GatewayGroup, GroupKey, HealthProbe, SourceKind
from egresslab.policy.sources import interfaces_of
from egresslab.policy.standby import Doubt, StandbyGroup, own_source, probed_nodes, standby_groups
from egresslab.voter.files import Candidate, Failback, Group, Pace, Peer, Report, Voting, Watched

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a ballot paper needs besides decisions. `synced(lease, node)`: that candidate has this node's flow records.
    `known` gives addresses of nodes whose objects are gone. `stretch`: how many times more slowly than the objects say
    gateways are probed, which has to be the same on all nodes."""

    node: str
    interfaces: Sequence[NodeInterface]
    synced: Callable[[int, str], bool]
    doubt: Doubt
    known: Mapping[str, IPv4Address]
    stretch: int = 1


def lease_of(key: GroupKey) -> int:
    """The number of a group's lease."""
    return lease_number(key.dialect, key.name)


def group_key(text: str) -> GroupKey | None:
    """The group that a report names; None for one of another version of ours."""
    dialect, _, name = text.rpartition("/")
    return GroupKey(Dialect(dialect), name) if dialect in set(Dialect) else None


def newer_voters(change: ObjectChange, known: VoterSet | None) -> VoterSet | None:
    """The voters that an object names, if it is a later word than the one known. Whoever voted goes on until somebody
    says who else does: an object that is gone, or cannot be read, changes nothing."""
    if change.type is ChangeType.DELETED:
        return None
    try:
        told = parse_voters(change.object)
    except ClusterError as error:
        logger.warning("the voters stay as they are: %s", error)
        return None
    return told if known is None or told.version > known.version else None


def choices(report: Report) -> dict[Ref, Value]:
    """Who holds, as the engine is told; it counts for decisions here, whatever the objects say of it meanwhile."""
    keys = ((group_key(lease.key), lease.holder) for lease in report.leases)
    told = (ActiveChoice(key, holder) for key, holder in keys if key is not None and holder is not None)
    return {choice.ref: choice for choice in told}


def replicated(group: GatewayGroup) -> bool:
    """Whether flow records are of use to a standby: where the address moves, and nobody declined."""
    return group.standby and group.replicate_sessions and bool(group.virtual_addresses)


def build_voting(engine: Engine, voters: VoterSet | None, around: Surroundings) -> Voting:
    """The file's content. Nobody votes until somebody said who, or while a voter's address is not known."""
    nodes = {
        node.name: Peer(node.name, node.internal_v4, node.internal_v6)
        for node in sorted(engine.registry.nodes.values(), key=lambda node: node.name)
        if node.internal_v4 is not None
    }
    for name in voters.nodes if voters else ():
        if name not in nodes and name in around.known:
            # A voter whose object was deleted still counts: a set of voters must be the same everywhere.
            nodes[name] = Peer(name, around.known[name])
    if voters is None or around.node not in nodes or not nodes.keys() >= set(voters.nodes):
        peers = tuple(nodes.values()) if around.node in nodes else ()
        return Voting(around.node, peers, ())
    groups = sorted(standby_groups(engine, around.doubt), key=lambda standby: standby.key)
    watched = sorted(probed_nodes(engine).items())
    return Voting(
        around.node,
        tuple(nodes.values()),
        voters.nodes,
        voters.version,
        tuple(_group(engine, standby, around) for standby in groups),
        tuple(Watched(name, pace(probe, around.stretch)) for name, (_, probe) in watched),
        around.stretch,
    )


def pace(probe: HealthProbe, stretch: int = 1) -> Pace:
    """How a node is probed, in the file's terms."""
    return Pace(round(probe.interval_s * 1000 * stretch), probe.failures, probe.recoveries)


def _group(engine: Engine, standby: StandbyGroup, around: Surroundings) -> Group:
    group, lease = standby.group, lease_of(standby.key)
    addresses = group.virtual_addresses
    nodes = engine.registry.nodes
    return Group(
        lease=lease,
        key=standby.key.text,
        candidates=tuple(
            Candidate(
                candidate.node,
                candidate.fit,
                candidate.reason or "",
                not replicated(group) or around.synced(lease, candidate.node),
                tuple(_macs(group, nodes[candidate.node])),
            )
            for candidate in standby.candidates
        ),
        addresses=addresses,
        announce=tuple(interface.name for interface in _announcing(group, around.interfaces)) if addresses else (),
        wires=tuple(_wires(engine, standby, around)),
        pace=pace(group.health, around.stretch),
        failback=Failback(group.failback.policy),
        failback_delay_s=group.failback.delay_s,
    )


def _announcing(group: GatewayGroup, interfaces: Iterable[NodeInterface]) -> Iterator[NodeInterface]:
    """Those named, by either name; without names every interface that leads out."""
    wanted = set(group.announce_interfaces)
    for interface in interfaces:
        if interface.leads_out and (not wanted or wanted & {interface.name, *interface.altnames}):
            yield interface


def _macs(group: GatewayGroup, node: Node) -> Iterator[str]:
    wanted = set(group.announce_interfaces)
    for interface in node.interfaces or ():
        if interface.mac and (not wanted or wanted & {interface.name, *interface.altnames}):
            yield interface.mac


def _wires(engine: Engine, standby: StandbyGroup, around: Surroundings) -> Iterator[str]:
    """Interfaces without which this node's packets cannot leave, where the group names them."""
    source = standby.group.members[0].source
    own = own_source(engine, standby.key, around.node)
    if own is None or source.kind is SourceKind.VIRTUAL:
        return
    if own.interface is not None:
        yield from (i.name for i in around.interfaces if own.interface in (i.name, *i.altnames))
        return
    used = {own.source_v4, own.source_v6} - {None}
    for interface in interfaces_of(engine.registry.nodes[around.node]):
        if any(interface.carries(address) for address in used if address is not None):
            yield from (i.name for i in around.interfaces if i.name == interface.name)
