"""What is wrong with which policy or gateway, in words for events, conditions and people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from egresslab.policy.entries import Problem, Reason, Refuse
from egresslab.policy.groups import GroupState, group_problem
from egresslab.policy.inventory import ref_of_key
from egresslab.policy.model import FailMode, GroupKey, Network, PolicyKey
from egresslab.policy.profiles import Contest, Profile, Row
from egresslab.policy.registry import Registry
from egresslab.policy.settings import Settings


def find_problems(
    registry: Registry,
    profiles: Iterable[Profile],
    refused: Iterable[Refuse],
    count: Mapping[int, int],
    settings: Settings,
) -> list[Problem]:
    """All problems, sorted by subject."""
    found = {Problem(refusal.subject, Reason.REFUSED, refusal.reason, refusal.ref) for refusal in refused}
    for policy in registry.policies.values():
        found.update(_policy_problems(policy.policy.key, policy.group, policy.policy.fail_mode))
        found.update(_family_problems(policy.policy.key, policy.group, [c.network for c in policy.destinations]))
    for group in registry.groups.values():
        if isinstance(group.key, GroupKey) and group.group is not None:
            problem = group_problem(group)
            if problem is not None:
                found.add(about(group.key, *problem))
    for profile in profiles:
        for contest in profile.contests:
            found.update(contest_problems(contest))
    if settings.capacity is not None:
        for version, entries in count.items():
            if entries > settings.capacity:
                message = f"{entries} IPv{version} entries do not fit into a map of {settings.capacity}"
                found.add(Problem("policy map", Reason.MAP_FULL, message))
    return sorted(found)


def about(key: PolicyKey | GroupKey, reason: Reason, message: str) -> Problem:
    """A problem of the policy or gateway of that identity."""
    return Problem(str(key), reason, message, ref_of_key(key))


def _policy_problems(key: PolicyKey, group: GroupState, mode: FailMode) -> Iterable[Problem]:
    problem = group_problem(group)
    if problem is not None:
        reason, message = problem
        if reason in (Reason.NO_GATEWAY_NODE, Reason.NO_GATEWAY_OBJECT) and mode is FailMode.OPEN:
            message = (
                message.replace(": its traffic is dropped", "") + ": its traffic leaves untranslated (failMode Open)"
            )
        yield about(key, reason, message)


def _family_problems(key: PolicyKey, group: GroupState, networks: list[Network]) -> Iterable[Problem]:
    """Where each family stands alone: destinations of a family for which the gateway has no source."""
    if group.group is None or group.group.families is not None:
        return
    versions = {network.version for network in networks}
    for gateway in group.positions:
        if gateway is None or not gateway.source.usable:
            continue
        source = gateway.source
        for version, address in ((4, source.source_v4), (6, source.source_v6)):
            if version in versions and address is None:
                message = f"gateway {gateway.node} has no IPv{version} source: IPv{version} destinations are dropped"
                yield about(key, Reason.FAMILY_MISSING, message)


def contest_problems(contest: Contest) -> Iterable[Problem]:
    """One Conflict for each of two policies whose claims differ in outcome; none where they agree."""
    winner, loser = contest
    if same_outcome(winner, loser):
        return
    first, second = winner.state.policy.key, loser.state.policy.key
    if first == second:
        message = f"{loser.written} is both a destination and excluded; the exclusion counts"
        yield about(first, Reason.CONFLICT, message)
        return
    yield about(
        first, Reason.CONFLICT, f"{winner.written} is also claimed by {second} with another outcome; this one wins"
    )
    yield about(second, Reason.CONFLICT, f"{loser.written} is also claimed by {first} with another outcome, which wins")


def same_outcome(one: Row, other: Row) -> bool:
    """Whether both claims do the same to a packet."""
    if one.excluded or other.excluded:
        return one.excluded and other.excluded
    a, b = one.state, other.state
    if a.group is b.group and a.policy.fail_mode is b.policy.fail_mode:
        return True
    if a.group.shape.width != 1 or b.group.shape.width != 1:
        return False
    left, right = a.group.positions[0], b.group.positions[0]
    if left is None or right is None:
        return left is right and a.policy.fail_mode is b.policy.fail_mode
    version = one.network.version
    return (left.node, left.source.interface, left.source.of(version)) == (
        right.node,
        right.source.interface,
        right.source.of(version),
    )
