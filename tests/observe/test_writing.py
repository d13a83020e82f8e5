"""Flows as lines: JSON that can be read back, tables that line up, Hubble's names with Hubble's meaning."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from egresslab.flows.flow import Event, Flow, Lost, Side, Told, Verdict, as_json, parse, parse_time, rfc3339
from egresslab.flows.rendering import Form, writer
from tests.observe.test_choosing import DROPPED, FLOW, IPV6

SIDES = st.builds(Side, st.ip_addresses().filter(lambda ip: ip.version == 4 or not ip.scope_id), st.integers(0, 65535))
TIMES = st.integers(0, 4_000_000_000 * 10**9)
NAMES = st.text("abc-.0", min_size=1, max_size=5)
FLOWS = st.builds(
    Flow,
    time_ns=TIMES,
    node=NAMES,
    event=st.sampled_from(Event),
    verdict=st.sampled_from(Verdict),
    protocol=st.sampled_from(["TCP", "UDP", "ICMP", "ICMPV6", "132"]),
    namespace=NAMES,
    pod=NAMES,
    source=SIDES,
    destination=SIDES,
    egress=st.none() | SIDES,
    gateway=st.just("") | NAMES,
    reason=st.just("") | NAMES,
    names=st.lists(NAMES, max_size=2).map(tuple),
)
TOLD = FLOWS | st.builds(Lost, TIMES, NAMES, st.integers(1, 10**6))


@given(TOLD)
def test_json_can_be_read_back(told: Told) -> None:
    assert list(parse(json.dumps(as_json(told)))) == [told]


@given(TIMES)
def test_times_keep_their_nanoseconds(time_ns: int) -> None:
    assert parse_time(rfc3339(time_ns)) == time_ns


def test_a_gap_before_an_event_is_told_before_it() -> None:
    body = as_json(FLOW) | {"lost": 3}
    assert list(parse(json.dumps(body))) == [Lost(FLOW.time_ns, FLOW.node, 3), FLOW]


@given(st.lists(TOLD, min_size=1, max_size=5))
def test_a_table_of_what_is_known_lines_up(rows: list[Told]) -> None:
    lines = writer(Form.TABLE, rows, UTC)
    written = [line for told in rows for line in lines(told)]
    column = written[0].index("VERDICT")
    for told, line in zip(rows, written[1:], strict=True):
        assert isinstance(told, Lost) or line[column:].startswith(told.verdict)


def test_what_people_see() -> None:
    lines = writer(Form.TABLE, [FLOW, DROPPED], UTC)
    assert [*lines(FLOW), *lines(DROPPED), *lines(Lost(0, "lab-worker", 25))] == [
        "TIME           NODE          POD                   PROTOCOL   DESTINATION"
        "                      EGRESS IP            GATEWAY       VERDICT     EVENT",
        "00:16:40.000   lab-worker2   team/web-7f9c:40000   TCP        203.0.113.10:443 (ifconfig.me)"
        "   172.18.18.12:40000   lab-worker2   FORWARDED   OPENED",
        "00:16:40.000   lab-worker    team/web-7f9c:40000   TCP        203.0.113.10:443 (ifconfig.me)"
        "   -                    -             DROPPED     NO_GATEWAY",
        "EVENTS LOST: lab-worker: 25",
    ]
    assert writer(Form.COMPACT, zone=UTC)(IPV6) == [
        "Jan 01 00:16:40.000 [lab-worker2]: team/web-7f9c:40000 -> [2001:db8:113::10]:443 via lab-worker2"
        " as 172.18.18.12:40000 OPENED FORWARDED (TCP)"
    ]


def test_a_table_that_grows_never_cuts() -> None:
    lines = writer(Form.TABLE, zone=UTC)
    lines(FLOW)
    long = replace(FLOW, pod="w" * 60)
    assert f"team/{'w' * 60}:40000" in lines(long)[0]


def test_hubbles_words() -> None:
    def spoken(told: Told) -> dict[str, object]:
        [line] = writer(Form.JSONPB)(told)
        return dict(json.loads(line))

    forwarded, dropped, lost = spoken(FLOW)["flow"], spoken(DROPPED)["flow"], spoken(Lost(0, "n", 3))
    assert isinstance(forwarded, dict) and isinstance(dropped, dict)
    assert forwarded["IP"]["source_xlated"] == "172.18.18.12"
    assert (forwarded["source"]["namespace"], forwarded["source"]["pod_name"]) == ("team", "web-7f9c")
    assert forwarded["destination_names"] == ["ifconfig.me", "ipv4.ifconfig.me"]
    assert forwarded["l4"]["TCP"] == {"source_port": 40000, "destination_port": 443, "flags": {"SYN": True}}
    assert (dropped["verdict"], dropped["drop_reason"]) == ("DROPPED", 194)
    assert dropped["drop_reason_desc"] == "NO_EGRESS_GATEWAY" and "source_xlated" not in dropped["IP"]
    assert lost["lost_events"] == {"source": "HUBBLE_RING_BUFFER", "num_events_lost": "3"}


def test_icmp_has_no_port_to_show() -> None:
    ping = replace(FLOW, protocol="ICMP", destination=Side(IPv4Address("203.0.113.10"), 0), names=())
    assert "203.0.113.10   " in writer(Form.TABLE, [ping])(ping)[1]
