"""Which nodes vote: a pure choice, one step at a time.

Nodes learn of a change at different moments, so two sets are in force at once. A step therefore adds one voter or
takes one away and never does both: then any majority of one set shares a voter with any majority of the next, and no
two candidates can each have one (the single-server change of Raft, Ongaro 2014, section 4.1). Replacing a voter takes
two steps, the lost one first: the set in between asks nothing of the newcomer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egresslab.api.voters import VoterSet

LARGEST = 5
"""Each voter probes every candidate; five outlive the loss of any two."""


@dataclass(frozen=True, slots=True)
class Elector:
    """A node that could vote: `fit` when it can do so now, `candidate` when it may be some gateway."""

    name: str
    fit: bool
    candidate: bool = False


def wanted_size(nodes: int) -> int:
    """How many voters a cluster of so many nodes has: odd, so that none is needed for a majority in vain."""
    return max(1, min(LARGEST, nodes if nodes % 2 else nodes - 1))


def next_voters(present: VoterSet | None, electors: Iterable[Elector]) -> VoterSet | None:
    """The set after one step, or `present` itself when it should stay; None while there is no node at all.

    When no majority of the present voters exists as nodes any more, nothing they granted can be told of: the set is
    founded anew.
    """
    known = {elector.name: elector for elector in electors}
    if not known:
        return present
    if present is None or sum(name in known for name in present.nodes) < present.quorum:
        return _found(present.version + 1 if present else 1, known)
    nodes = _step(present.nodes, known)
    return present if nodes == present.nodes else VoterSet(present.version + 1, nodes)


def _found(version: int, known: Mapping[str, Elector]) -> VoterSet:
    chosen: tuple[str, ...] = ()
    for _ in range(wanted_size(len(known))):
        left = [elector for name, elector in known.items() if name not in chosen]
        chosen = (*chosen, _best([e for e in left if e.fit] or left, chosen, known))
    return VoterSet(version, chosen)


def _step(present: tuple[str, ...], known: Mapping[str, Elector]) -> tuple[str, ...]:
    size, wanted = len(present), wanted_size(len(known))
    newcomers = [elector for name, elector in known.items() if elector.fit and name not in present]
    unfit = [name for name in present if name not in known or not known[name].fit]
    if size % 2 == 0:
        return _with(present, newcomers, known) if newcomers and size < wanted else _without(present, known)
    if size > wanted or (size > 1 and newcomers and (unfit or _lopsided(present, newcomers, known))):
        return _without(present, known)
    if size + 2 <= wanted and len(newcomers) >= 2:
        return _with(present, newcomers, known)
    return present


def _lopsided(present: tuple[str, ...], newcomers: list[Elector], known: Mapping[str, Elector]) -> bool:
    """Whether all voters are candidates, who tend to fail together, though another node could vote."""
    return all(known[name].candidate for name in present) and any(not elector.candidate for elector in newcomers)


def _with(present: tuple[str, ...], newcomers: list[Elector], known: Mapping[str, Elector]) -> tuple[str, ...]:
    return (*present, _best(newcomers, present, known))


def _without(present: tuple[str, ...], known: Mapping[str, Elector]) -> tuple[str, ...]:
    """Gone nodes go first, then unfit ones, then of the kind that has more votes the last by name."""
    surplus = _candidates(present, known) * 2 >= len(present)

    def dispensable(name: str) -> tuple[bool, bool, bool, str]:
        elector = known.get(name)
        return elector is None, elector is None or not elector.fit, bool(elector and elector.candidate is surplus), name

    lost = max(present, key=dispensable)
    return tuple(name for name in present if name != lost)


def _best(choice: list[Elector], present: tuple[str, ...], known: Mapping[str, Elector]) -> str:
    """Of the kind with fewer votes, others before candidates, the first by name."""
    needed = _candidates(present, known) * 2 < len(present)
    return min(choice, key=lambda elector: (elector.candidate is not needed, elector.name)).name


def _candidates(names: tuple[str, ...], known: Mapping[str, Elector]) -> int:
    return sum(name in known and known[name].candidate for name in names)
