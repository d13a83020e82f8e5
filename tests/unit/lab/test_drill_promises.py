"""What a drill is held to, judged by made-up measurements; and how its result is written down and drawn."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from egresslab.errors import LabError
from egresslab.lab.drills import promises, timeline, view
from egresslab.lab.drills.breakages import Mode
from egresslab.lab.drills.drill import Plan
from egresslab.lab.drills.gaps import MS, Connections, Gap, Loss, Seen
from egresslab.lab.drills.notebook import plan_of
from egresslab.lab.drills.owners import Owners, Reign
from egresslab.lab.drills.records import GATEWAY_TRAFFIC, Protocol
from egresslab.lab.drills.result import DrillResult, Event, Measured
from egresslab.lab.drills.scene import Addressing, Scene

VIRTUAL = ipaddress.ip_address("172.18.18.242")
SCENE = Scene("drill", Addressing.VIRTUAL_IP, ("a", "b"), frozenset((VIRTUAL,)), ("k", "v"), (), True)
REIGNS = (Reign("02:01:ac:12:12:0b", 0, 1000 * MS, 50), Reign("02:01:ac:12:12:0c", 1180 * MS, 4000 * MS, 140))


def measured(
    gap_ms: int = 180, *, kept: int = 200, reset: int = 0, closed: bool = True, control_ms: int = 0
) -> Measured:
    gap = Gap(1000 * MS, (1000 + gap_ms) * MS, closed)
    return Measured(
        0,
        4000 * MS,
        {protocol: Loss(protocol, 300, gap_ms // 10, gap) for protocol in GATEWAY_TRAFFIC},
        Connections(kept, reset, 0, 0, 400.0 if reset else None, (200.0,) * kept),
        (Seen(VIRTUAL, 900, 0, 4000 * MS),),
        {},
        Owners(REIGNS, 1),
        Loss(Protocol.CONTROL, 300, 0, Gap(0, control_ms * MS)),
        3.0,
    )


def broken(scene: Scene, mode: Mode | None, found: Measured) -> set[str]:
    return {claim.title for claim in promises.judge(scene, mode, found) if not claim.held}


def test_a_crash_that_nobody_had_to_notice_breaks_no_promise() -> None:
    assert broken(SCENE, Mode.CRASH, measured()) == set()


@pytest.mark.parametrize(
    ("found", "promise"),
    [
        (measured(1001), "traffic goes on"),
        (measured(600, closed=False), "traffic goes on"),
        (measured(kept=199, reset=1), "connections live on"),
        (replace(measured(), strangers={"192.168.60.14": 1}), "no packet leaves with another"),
        (replace(measured(), sources=()), "no other source address answers"),
        (replace(measured(), owners=Owners(REIGNS, 2)), "the address has one owner at a time"),
    ],
)
def test_each_promise_can_be_broken(found: Measured, promise: str) -> None:
    assert broken(SCENE, Mode.CRASH, found) == {promise}


def test_a_planned_move_is_judged_by_what_the_gateway_adds() -> None:
    assert broken(SCENE, None, measured(60)) == {"traffic goes on"}
    assert broken(SCENE, None, measured(60, control_ms=40)) == set()
    assert broken(SCENE, None, measured(100, control_ms=40)) == {"traffic goes on"}


def test_slow_nodes_may_take_their_time_and_the_promise_says_by_how_much() -> None:
    (claim,) = (one for one in promises.judge(SCENE, Mode.CRASH, measured(1900), 2.0) if one.title == "traffic goes on")
    assert claim.held and "1000 ms × 2" in claim.wanted
    assert broken(SCENE, Mode.CRASH, measured(1900)) == {"traffic goes on"}
    lost = promises.judge(SCENE, Mode.CRASH, measured(kept=199, reset=1), 2.0)
    assert {one.title for one in lost if not one.held} == {"connections live on"}, "only time is stretched"


def test_a_stretched_plan_has_as_many_packets_in_more_time() -> None:
    plan, slow = Plan(), Plan().stretched(5.0)
    assert slow.pattern.interval_ms == 5 * plan.pattern.interval_ms and slow.after_s == 5 * plan.after_s
    assert slow.pattern.connections == plan.pattern.connections
    assert slow.pattern.new_per_second * slow.after_s == plan.pattern.new_per_second * plan.after_s
    assert Plan().stretched(1.0) == plan
    assert plan.pattern.niceness < 0 == slow.pattern.niceness, "who asks a slow node something has to have its turn"


def test_with_primary_addresses_connections_are_told_that_they_are_over() -> None:
    scene = replace(SCENE, addressing=Addressing.PRIMARY_IP)
    assert broken(scene, Mode.CRASH, measured(kept=0, reset=200)) == set()
    silent = replace(measured(), connections=Connections(0, 199, 1, 0, 400.0, ()))
    assert broken(scene, Mode.CRASH, silent) == {"connections that cannot live on are told"}


def test_of_an_only_gateway_nothing_is_promised_but_that_nothing_leaks() -> None:
    scene = replace(SCENE, candidates=("a",))
    assert broken(scene, Mode.CRASH, measured(3000, closed=False, kept=0)) == set()
    leak = replace(measured(3000, closed=False, kept=0), strangers={"192.168.60.14": 3})
    assert broken(scene, Mode.CRASH, leak) == {"no packet leaves with another"}


def test_a_move_while_every_core_is_busy_is_a_false_failover() -> None:
    assert broken(SCENE, Mode.BUSY, measured(20)) == {"nothing fails over"}
    stayed = replace(measured(20), owners=Owners(REIGNS[:1], 1))
    assert broken(SCENE, Mode.BUSY, stayed) == set()


def result(found: Measured) -> DrillResult:
    events = (Event("a <dies>", 990 * MS, 1400 * MS),)
    claims = promises.judge(SCENE, Mode.CRASH, found)
    return DrillResult("failover", "crash", "virtual-ip", "drill", "a", "b", found, events, claims)


def test_the_result_in_json_counts_from_the_event() -> None:
    found = json.loads(json.dumps(result(measured()).to_json()))
    assert found["gap_ms"] == 180
    assert found["protocols"]["udp"] == {"sent": 300, "lost": 18, "gap_ms": 180, "gap": [10, 190], "recovered": True}
    assert found["connections"]["kept"] == 200
    assert found["sources_seen"] == ["172.18.18.242"]
    assert found["held"] is True


def test_the_picture_is_svg_and_says_in_words_what_it_shows() -> None:
    picture = timeline.document(result(measured()))
    ElementTree.fromstring(picture)
    assert "UDP: 10 to 190 ms" in timeline.description(result(measured()))
    assert "180 ms" in picture


def test_the_line_of_time_marks_the_gap_and_nothing_else() -> None:
    lines = view.text(result(measured())).splitlines()
    udp = next(line for line in lines if line.startswith("UDP"))
    marks = udp.removeprefix("UDP").strip()
    span = timeline.span(result(measured()))
    share = 180 * MS / (span.end - span.start)
    assert abs(marks.count("×") / len(marks) - share) < 0.03
    assert "×" not in next(line for line in view.text(result(measured(0))).splitlines() if line.startswith("UDP"))


def test_two_that_fight_for_the_address_do_not_fill_the_page() -> None:
    fight = Owners(REIGNS * 100, 2)
    shown = next(line for line in view.text(result(replace(measured(), owners=fight))).splitlines() if "owners" in line)
    assert len(shown) < 200
    assert shown.endswith("… 194 more")


def test_a_plan_in_words() -> None:
    plan = plan_of("failover", {"mode": "link-cut", "connections": 7, "virtual": "172.18.18.9", "after_s": 1.0})
    assert (plan.mode, plan.pattern.connections, str(plan.virtual)) == (Mode.LINK_CUT, 7, "172.18.18.9")
    with pytest.raises(LabError, match="no such option"):
        plan_of("failover", {"moed": "crash"})
    with pytest.raises(LabError, match="one of: crash, power"):
        plan_of("failover", {"mode": "explode"})
