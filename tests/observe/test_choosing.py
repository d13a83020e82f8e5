"""Which flows are shown: the conditions of `hubble observe`, one by one, together, and as they travel to the agents."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from egresslab.cli.observe import app
from egresslab.errors import ClusterError
from egresslab.flows.filters import OPTIONS, Filter, arguments
from egresslab.flows.flow import SECOND, Event, Flow, Side, Verdict
from egresslab.flows.tail import read_arguments
from egresslab.flows.times import moment

FLOW = Flow(
    time_ns=1_000 * SECOND,
    node="lab-worker2",
    event=Event.OPENED,
    verdict=Verdict.FORWARDED,
    protocol="TCP",
    namespace="team",
    pod="web-7f9c",
    source=Side(IPv4Address("10.244.1.7"), 40_000),
    destination=Side(IPv4Address("203.0.113.10"), 443),
    egress=Side(IPv4Address("172.18.18.12"), 40_000),
    gateway="lab-worker2",
    names=("ifconfig.me", "ipv4.ifconfig.me"),
)
DROPPED = replace(
    FLOW, event=Event.DROPPED, verdict=Verdict.DROPPED, reason="NO_GATEWAY", egress=None, gateway="", node="lab-worker"
)
IPV6 = replace(FLOW, destination=Side(IPv6Address("2001:db8:113::10"), 443), names=())


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Filter(), [FLOW, DROPPED, IPV6]),
        (Filter(pods=("team/web",)), [FLOW, DROPPED, IPV6]),
        (Filter(pods=("web",)), []),
        (Filter(pods=("web",), namespaces=("team",)), [FLOW, DROPPED, IPV6]),
        (Filter(pods=("team/",)), [FLOW, DROPPED, IPV6]),
        (Filter(pods=("team/api", "team/web-7")), [FLOW, DROPPED, IPV6]),
        (Filter(namespaces=("other",)), []),
        (Filter(nodes=("lab-worker",)), [DROPPED]),
        (Filter(nodes=("lab-*",), verdicts=("dropped",)), [DROPPED]),
        (Filter(gateways=("*2",)), [FLOW, IPV6]),
        (Filter(fqdns=("ifconfig.me",)), [FLOW, DROPPED]),
        (Filter(fqdns=("*.IFCONFIG.me.",)), [FLOW, DROPPED]),
        (Filter(fqdns=("*config*",)), [FLOW, DROPPED]),
        (Filter(fqdns=("fconfig.me", "ifconfigXme")), []),
        (Filter(to_ips=("203.0.113.0/24",)), [FLOW, DROPPED]),
        (Filter(to_ips=("2001:db8:113::10",)), [IPV6]),
        (Filter(to_ports=(80,)), []),
        (Filter(snat_ips=("172.18.18.12",)), [FLOW, IPV6]),
        (Filter(protocols=("udp", "tcp"), reasons=("no_gateway",)), [DROPPED]),
        (Filter(since_ns=1_000 * SECOND, until_ns=1_000 * SECOND + 1), [FLOW, DROPPED, IPV6]),
        (Filter(since_ns=1_000 * SECOND + 1), []),
        (Filter(until_ns=1_000 * SECOND), []),
    ],
)
def test_conditions(wanted: Filter, shown: list[Flow]) -> None:
    assert [flow for flow in (FLOW, DROPPED, IPV6) if wanted.matches(flow)] == shown


def test_dots_of_a_name_are_dots() -> None:
    other = replace(FLOW, names=("ifconfigxme",))
    assert not Filter(fqdns=("ifconfig.me",)).matches(other)
    assert not Filter(fqdns=("[",)).matches(other)


def test_an_address_that_is_none_is_refused_with_its_option() -> None:
    with pytest.raises(ClusterError, match="--snat-ip: neither an address nor a network"):
        Filter(snat_ips=("172.18.18.999",))


WORDS = st.text("abz09-*./:", min_size=1, max_size=9).filter(lambda text: not text.startswith("-"))
FILTERS = st.builds(
    Filter,
    **{name: st.lists(WORDS, max_size=2).map(tuple) for name in ("pods", "namespaces", "nodes", "gateways", "fqdns")},
    to_ips=st.lists(st.sampled_from(["10.0.0.0/8", "2001:db8::1"]), max_size=2).map(tuple),
    to_ports=st.lists(st.integers(0, 65535), max_size=2).map(tuple),
    verdicts=st.lists(st.sampled_from(["FORWARDED", "DROPPED"]), max_size=2).map(tuple),
    since_ns=st.none() | st.integers(0, 2**62),
)


@settings(max_examples=30, deadline=None)  # a command line is parsed each time
@given(FILTERS)
def test_a_filter_survives_its_way_to_an_agent_as_a_command_line(wanted: Filter) -> None:
    command = typer.main.get_command(app)
    with command.make_context("observe", list(arguments(wanted))) as context:
        given_ = {name: value for name, value in context.params.items() if value not in (None, [])}
    assert read_arguments([*arguments(wanted), "--last=7", "--follow"]) == (wanted, 7, True)
    names = {"pods": "pod", "namespaces": "namespace", "nodes": "node", "gateways": "gateway", "fqdns": "to_fqdn"}
    names |= {"to_ips": "to_ip", "to_ports": "to_port", "verdicts": "verdict"}
    for field, option in names.items():
        assert tuple(given_.get(option, ())) == getattr(wanted, field), OPTIONS[field]
    assert (moment(given_["since"], 0) if "since" in given_ else None) == wanted.since_ns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5m", 700 * SECOND),
        ("1m1.5s", 938 * SECOND + SECOND // 2),
        ("1970-01-01T00:01:00Z", 60 * SECOND),
        ("1970-01-01T01:00:00.000000007+01:00", 7),
        ("123", 123),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert moment(text, 1_000 * SECOND) == expected


@pytest.mark.parametrize("text", ["yesterday", "5d", "1970-01-01T00:00:00", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="not a time"):
        moment(text, 0)
