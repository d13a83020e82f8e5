"""Voters change so that two majorities always share a node, and settle on an odd number of nodes that can vote."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from egresslab.api.voters import VoterSet, parse_voters, voters_configmap
from egresslab.operator.electorate import Elector, next_voters, wanted_size

NAMES = [f"node-{letter}" for letter in "abcdefgh"]


def electors(fit: str, unfit: str = "", candidates: str = "") -> list[Elector]:
    return [Elector(letter, letter in fit, letter in candidates) for letter in sorted({*fit, *unfit})]


@st.composite
def clusters(draw: st.DrawFn) -> list[Elector]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    return [Elector(name, draw(st.booleans()), draw(st.booleans())) for name in names]


def majorities(voters: VoterSet) -> list[set[str]]:
    return [set(chosen) for chosen in combinations(voters.nodes, voters.quorum)]


@given(st.lists(clusters(), min_size=1, max_size=12))
def test_any_two_majorities_in_a_row_share_a_voter(history: list[list[Elector]]) -> None:
    present: VoterSet | None = None
    for cluster in history:
        chosen = next_voters(present, cluster)
        assert chosen is not None
        known = {elector.name for elector in cluster}
        if present is not None and chosen != present and len(known & {*present.nodes}) >= present.quorum:
            assert chosen.version == present.version + 1
            assert len({*chosen.nodes} ^ {*present.nodes}) == 1
            assert all(one & other for one in majorities(present) for other in majorities(chosen))
        present = chosen


@given(clusters(), clusters())
def test_it_settles_on_an_odd_number_that_can_vote_if_anybody_can(
    before: list[Elector], cluster: list[Elector]
) -> None:
    present = next_voters(None, before)
    for _ in range(20):
        following = next_voters(present, cluster)
        if following == present:
            break
        present = following
    assert following == present is not None
    assert len(present.nodes) % 2 == 1 and len(present.nodes) <= wanted_size(len(cluster))
    fit = {elector.name for elector in cluster if elector.fit}
    if len(fit) >= len(present.nodes) > 1:
        assert {*present.nodes} <= fit


@given(clusters(), st.randoms())
def test_the_order_in_which_nodes_are_listed_does_not_count(cluster: list[Elector], random: object) -> None:
    shuffled = list(cluster)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = next_voters(None, cluster)
    assert first == next_voters(None, shuffled)
    assert next_voters(first, cluster) == next_voters(first, shuffled)


def test_a_lab_of_four_nodes_has_three_voters_and_no_more_candidates_than_others() -> None:
    voters = next_voters(None, electors("abcd", candidates="cd"))
    assert voters is not None
    assert len(voters.nodes) == 3 and len({*voters.nodes} & {"c", "d"}) == 1


def test_a_lost_voter_goes_before_its_replacement_comes() -> None:
    between = next_voters(VoterSet(7, ("a", "b", "c")), electors("abd", unfit="c"))
    assert between == VoterSet(8, ("a", "b"))
    assert next_voters(between, electors("abd", unfit="c")) == VoterSet(9, ("a", "b", "d"))


def test_a_lost_voter_stays_while_nobody_could_replace_it() -> None:
    present = VoterSet(7, ("a", "b", "c"))
    assert next_voters(present, electors("ab", unfit="cd")) == present


def test_voters_that_are_all_candidates_make_room_for_another_node() -> None:
    cluster = electors("abcd", candidates="abc")
    between = next_voters(VoterSet(1, ("a", "b", "c")), cluster)
    assert between == VoterSet(2, ("a", "b"))
    assert next_voters(between, cluster) == VoterSet(3, ("a", "b", "d"))


def test_voters_of_a_cluster_that_is_gone_are_founded_anew_with_a_later_version() -> None:
    voters = next_voters(VoterSet(7, ("x", "y", "a")), electors("abc"))
    assert voters == VoterSet(8, ("a", "b", "c"))


def test_the_configmap_says_what_was_written() -> None:
    voters = VoterSet(3, ("a", "b", "c"))
    assert parse_voters(voters_configmap(voters)) == voters
