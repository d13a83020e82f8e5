"""Hypothesis strategies for clusters small enough that everything collides with everything."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import strategies as st

from egresslab.api.selectors import LabelSelector, Operator, Requirement
from egresslab.policy.entries import Change, Delete, Upsert
from egresslab.policy.inventory import (
    ActiveChoice,
    DomainAnswer,
    Interface,
    Namespace,
    Node,
    NodeHealth,
    Pod,
    Value,
    ref_of,
)
from egresslab.policy.model import (
    Choice,
    Cidr,
    Dialect,
    EgressPolicy,
    Eligibility,
    FailMode,
    Families,
    GatewayGroup,
    GroupKey,
    Member,
    PolicyKey,
    Selection,
    Source,
    SourceKind,
)

NAMESPACES = ["blue", "red"]
PODS = 5
NODES = ["n1", "n10", "n2", "n3"]
POD_ADDRESSES = [ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2")]
NODE_ADDRESSES = ["192.0.2.1/24", "192.0.2.2/24", "198.51.100.1/24", "2001:db8:1::1/64", "fe80::1/64"]
CIDRS = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.5/16", "10.1.2.3/32", "::/0", "2001:db8::/32"]
DOMAINS = ["a.example.com", "b.example.com"]

labels = st.sampled_from([{"app": "x"}, {"app": "x"}, {"app": "x", "tier": "y"}, {"app": "y"}, {}])
requirements = st.builds(
    lambda key, operator, values: Requirement(
        key, operator, frozenset(values) if operator in (Operator.IN, Operator.NOT_IN) else frozenset()
    ),
    st.sampled_from(["app", "tier", "io.kubernetes.pod.namespace"]),
    st.sampled_from(Operator),
    st.lists(st.sampled_from(["x", "y", "blue"]), min_size=1, max_size=2),
)
APP_X = LabelSelector((Requirement("app", Operator.IN, frozenset("x")),))
selectors = st.one_of(
    st.just(LabelSelector()),
    st.just(APP_X),
    st.lists(requirements, min_size=1, max_size=2).map(lambda found: LabelSelector(tuple(found))),
)
selections = st.builds(
    Selection, selectors, st.one_of(st.none(), st.none(), selectors), st.one_of(st.none(), st.none(), selectors)
)
addresses = st.lists(st.sampled_from(NODE_ADDRESSES), max_size=3, unique=True).map(
    lambda found: tuple(map(ip_interface, found))
)
interfaces = st.lists(
    st.builds(
        Interface,
        st.sampled_from(["eth0", "eth1"]),
        addresses,
        st.sampled_from([(), ("alt",)]),
        st.booleans(),
        st.booleans(),
        st.sampled_from([True, True, False]),
    ),
    max_size=2,
    unique_by=lambda interface: interface.name,
).map(tuple)
sources = st.one_of(
    st.just(Source()),
    st.sampled_from(["eth0", "alt", "none"]).map(lambda name: Source(SourceKind.INTERFACE, interface=name)),
    st.builds(
        lambda kind, found, assign: Source(kind, None, tuple(ip_interface(text).ip for text in found), assign),
        st.sampled_from([SourceKind.ADDRESS, SourceKind.VIRTUAL]),
        st.lists(st.sampled_from(NODE_ADDRESSES), min_size=1, max_size=2, unique=True),
        st.booleans(),
    ),
)
members = st.builds(Member, selectors, sources)
eligibilities = st.builds(Eligibility, st.booleans(), st.booleans(), st.booleans(), st.booleans())
families = st.none() | st.builds(Families, st.booleans(), st.booleans())
group_keys = st.builds(GroupKey, st.just(Dialect.EGRESSLAB), st.sampled_from(["g", "h"]))
inline_groups = st.one_of(
    st.builds(lambda found, need: GatewayGroup(None, (found,), Choice.FIRST_BY_NAME, families=need), members, families),
    st.builds(
        lambda found, need: GatewayGroup(None, tuple(found), Choice.HASH_MODULO, families=need),
        st.lists(members, min_size=1, max_size=3),
        families,
    ),
)
named_groups = st.builds(
    lambda key, member, choice, rules: GatewayGroup(key, (member,), choice, rules),
    group_keys,
    members,
    st.sampled_from([Choice.FIRST_BY_NAME, Choice.LOWEST_HASH, Choice.RENDEZVOUS]),
    eligibilities,
)
cidrs = st.sampled_from(CIDRS).map(lambda text: Cidr(ip_network(text, strict=False), text))
policies = st.builds(
    EgressPolicy,
    st.builds(PolicyKey, st.sampled_from([Dialect.CILIUM, Dialect.EGRESSLAB]), st.sampled_from(["p", "q", "r"])),
    st.lists(selections, min_size=1, max_size=2).map(tuple),
    st.lists(cidrs, min_size=1, max_size=3).map(tuple),
    inline_groups | group_keys,
    st.lists(cidrs, max_size=2).map(tuple),
    st.sampled_from([(), ("a.example.com",), ("*.example.com",)]),
    st.sampled_from(FailMode),
    st.sampled_from([0, 0, 1]),
)
pods = st.builds(
    lambda namespace, number, found, node, own, host, going, created: Pod(
        namespace, f"pod{number}", f"uid{number}", found, node, tuple(own), host, going, created
    ),
    st.sampled_from(NAMESPACES),
    st.integers(0, PODS - 1),
    labels,
    st.none() | st.sampled_from(NODES),
    st.lists(st.sampled_from(POD_ADDRESSES), min_size=1, max_size=2, unique=True),
    st.sampled_from([False, False, False, False, True]),
    st.booleans(),
    st.sampled_from(["", "2026-01-01T00:00:00Z"]),
)
nodes = st.builds(
    Node,
    st.sampled_from(NODES),
    labels,
    st.sampled_from([ip_address("192.0.2.10"), ip_address("192.0.2.11"), ip_address("192.0.2.12"), None]),
    st.none() | st.just(ip_address("2001:db8::10")),
    st.booleans(),
    st.booleans(),
    st.none() | interfaces,
    st.just(()),
    st.sampled_from([{}, {}, {f"{Dialect.EGRESSLAB}/g": "nothing upstream answers"}]),
)
values: st.SearchStrategy[Value] = st.one_of(
    pods,
    pods,
    nodes,
    nodes,
    policies,
    policies,
    named_groups,
    st.builds(Namespace, st.sampled_from(NAMESPACES), labels),
    st.builds(Namespace, st.sampled_from(NAMESPACES), labels),
    st.builds(NodeHealth, st.sampled_from(NODES), st.booleans()),
    st.builds(ActiveChoice, group_keys, st.sampled_from(NODES)),
    st.builds(
        DomainAnswer,
        st.sampled_from(DOMAINS),
        st.lists(st.sampled_from([ip_address("10.1.2.3"), ip_address("2001:db8::7")]), max_size=2).map(tuple),
    ),
)
changes: st.SearchStrategy[Change] = st.one_of(
    values.map(Upsert), values.map(Upsert), values.map(Upsert), values.map(lambda value: Delete(ref_of(value)))
)


def come_again(first: Pod, second: Pod) -> list[Change]:
    """All pods go, and some come again; one's labels stay known meanwhile, by a pod on the host's network."""
    host = replace(first, name="on-host", uid="on-host", host_network=True)
    gone = [Delete(ref_of(replace(first, uid=f"uid{number}"))) for number in range(PODS)]
    return [Upsert(host), Upsert(first), *gone, Upsert(second), Upsert(first)]


again = st.builds(come_again, pods, pods)
# Not by one_of, which would weigh this against every single kind of change.
episodes = st.sampled_from([True, False, False, False]).flatmap(
    lambda several: again if several else changes.map(lambda change: [change])
)
histories: st.SearchStrategy[list[Change]] = st.tuples(
    st.lists(nodes, min_size=2, max_size=4),
    st.lists(pods, min_size=2, max_size=4),
    st.lists(named_groups, max_size=2),
    st.lists(policies, min_size=1, max_size=3),
    st.lists(episodes, max_size=20).map(lambda found: [change for episode in found for change in episode]),
).flatmap(
    lambda parts: st.permutations([Upsert(value) for part in parts[:4] for value in part]).map(
        lambda start: [*start, *parts[4]]
    )
)
"""Some of everything in any order, then changes."""
