"""Views: each says the same as a picture, as a table and in words, and never with colour alone."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from egresslab.flows.flow import Told, parse
from egresslab.lab.entries import Entries, Entry, Gateway
from egresslab.lab.topology import Place, Topology
from egresslab.lab.views import live, shapes
from egresslab.lab.views.effect import effect
from egresslab.lab.views.live import Live
from egresslab.lab.views.ways import Way, ways
from tests.unit.lab.conftest import FakeBench, right_rows


def event(pod: str, **changes: object) -> str:
    """A line as an agent writes it."""
    body = {
        "time": "2026-01-02T03:04:05Z",
        "node": "lab-worker2",
        "event": "OPENED",
        "pod": {"namespace": "demo", "name": pod, "ip": "10.244.1.1", "port": 40000},
        "destination": {"ip": "203.0.113.10", "port": 80, "names": ["ifconfig.me"]},
        "egress": {"ip": "172.18.18.12", "port": 40000},
        "gateway": "lab-worker2",
        "protocol": "TCP",
        "verdict": "FORWARDED",
        "reason": None,
    }
    return json.dumps({**body, **changes})


def told(*lines: str) -> list[Told]:
    return [each for line in lines for each in parse(line)]


DROPPED = event("client-3", event="DROPPED", verdict="DROPPED", reason="NO_GATEWAY", egress=None, gateway=None)


def topology(bench: FakeBench, seen: Sequence[Way]) -> Topology:
    places = (Place("external server", "192.168.60.13", "192.168.60.0/24"),)
    return Topology(bench.nodes, list(bench.pods.values()), places).with_ways(seen)


def test_connections_of_one_way_are_taken_together_and_ends_do_not_count() -> None:
    seen = ways(told(event("client-1"), event("client-1"), event("client-1", event="CLOSED"), DROPPED))
    assert [(way.pod, way.connections, way.dropped, way.reason) for way in seen] == [
        ("client-1", 2, False, ""),
        ("client-3", 1, True, "NO_GATEWAY"),
    ]
    assert ways(told(event("client-1")), ["another"]) == ()


def test_ways_are_drawn_said_and_listed(bench: FakeBench) -> None:
    drawn = topology(bench, ways(told(event("client-1"), DROPPED)))
    root = ElementTree.fromstring(drawn.svg())
    said = root.get("aria-label") or ""
    assert "client-1 to ifconfig.me (203.0.113.10) through lab-worker2 as 172.18.18.12" in said
    assert "client-3 to ifconfig.me (203.0.113.10): dropped, NO_GATEWAY" in said
    shown = " ".join(root.itertext())
    assert "sees 172.18.18.12" in shown
    assert "NO_GATEWAY" in shown
    assert "✘ dropped: NO_GATEWAY" in str(drawn)
    assert len(list(root.iter("g"))) == 2


def test_no_way_is_drawn_where_nobody_saw_one(bench: FakeBench) -> None:
    assert "<g>" not in topology(bench, ()).svg()
    assert "(nothing)" in str(topology(bench, ()))


def test_what_changed_in_the_maps_is_marked_with_a_sign_and_a_word(bench: FakeBench) -> None:
    before = right_rows(bench, "client-1")
    moved = replace(before[0], egress=ipaddress.ip_address("172.18.18.14"))
    changes = Entries([moved, *before[2:], right_rows(bench, "client-2")[0]]).since(Entries(before))
    assert changes.counts == {"added": 1, "removed": 1, "changed": 1, "same": 7}
    assert [row[0] for row in changes.table().rows] == ["+ added", "- removed", "~ changed"]
    assert "0.0.0.0 → 172.18.18.14" in str(changes)
    assert "line-through" in changes.to_html()
    assert Entries(before).since(Entries(before)).counts["same"] == 9


def test_the_effect_on_a_pod_comes_from_the_rows_of_its_node_and_of_the_gateway(bench: FakeBench) -> None:
    lost = Entry(
        "lab-worker",
        bench.pod("client-1").addresses[0],
        ipaddress.ip_network("198.51.100.0/24"),
        ipaddress.ip_address("0.0.0.0"),
        Gateway.NOT_FOUND,
    )
    seen = effect(bench.pod("client-1"), bench.nodes, [*right_rows(bench, "client-1"), lost])
    assert [(path.destination, path.through, path.egress) for path in seen.paths] == [
        ("203.0.113.20/32", "lab-worker", "192.168.60.11"),
        ("198.51.100.0/24", "", ""),
        ("203.0.113.0/24", "lab-worker2", "172.18.18.12"),
        ("2001:db8:113::/64", "lab-worker2", "fd00:18::12"),
        ("anything else, IPv4", "lab-worker", "192.168.60.11"),
        ("anything else, IPv6", "lab-worker", "fd00:60::11"),
    ]
    said = ElementTree.fromstring(seen.svg()).get("aria-label") or ""
    assert "198.51.100.0/24: dropped, no gateway (Not Found)" in said


def test_a_gateway_without_an_egress_ip_drops(bench: FakeBench) -> None:
    rows = [replace(row, egress=type(row.egress)(0)) for row in right_rows(bench, "client-1")]
    seen = effect(bench.pod("client-1"), bench.nodes, rows).paths
    path = next(path for path in seen if path.through == "lab-worker2")
    assert (path.egress, path.why) == ("", "lab-worker2 has no egress IP")


def test_nothing_is_drawn_in_a_fixed_black_or_white(bench: FakeBench) -> None:
    drawn = topology(bench, ways(told(event("client-1"), DROPPED))).svg()
    drawn += effect(bench.pod("client-1"), bench.nodes, right_rows(bench, "client-1")).svg()
    assert not any(colour in drawn.lower() for colour in ("#000", "#fff", "black", "white"))
    assert shapes.GOOD in drawn


class Sketch:
    """A view that says how many events it was drawn from."""

    def __init__(self, events: Sequence[Told]) -> None:
        self.text = f"{len(events)} events"

    def __str__(self) -> str:
        return self.text

    def to_html(self) -> str:
        return f"<b>{self.text}</b>"


async def test_a_live_view_draws_what_agents_tell_and_ends_its_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower is a made-up command that tells of one flow and then waits for ever."""
    line = event("client-1", time="2099-01-01T00:00:00Z")
    command = tmp_path / "egresslab"
    command.write_text(f"#!{sys.executable}\nimport time\nprint({line!r}, flush=True)\ntime.sleep(600)\n")
    command.chmod(0o755)
    monkeypatch.setattr(live.terminal, "egresslab_path", lambda: str(command))
    monkeypatch.setattr(live, "REDRAW_S", 0.01)
    view = Live(Sketch, "kubeconfig").start()
    assert str(view) == "0 events"
    async with asyncio.timeout(20):
        while "1 events in the last" not in view._widget.value:  # noqa: ASYNC110  # a widget's value has no event
            await asyncio.sleep(0.02)
    bundle = view._repr_mimebundle_()
    assert (bundle["text/plain"], bundle["text/html"]) == ("1 events", "<b>1 events</b>")
    assert "application/vnd.jupyter.widget-view+json" in bundle
    child = view._process
    assert child is not None
    view.stop()
    async with asyncio.timeout(10):
        assert await child.wait() != 0


def test_without_an_event_loop_a_live_view_is_a_still_one() -> None:
    view = Live(Sketch, "kubeconfig").start()
    assert str(view) == "0 events"
    view.stop()
