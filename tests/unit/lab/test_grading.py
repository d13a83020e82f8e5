"""Running checks: waiting, verdicts, hints, progress, and the difference between learning and solving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from egresslab.errors import LabError
from egresslab.lab.checks import catalogue, engine, view
from egresslab.lab.checks.grader import Grader, Mode
from egresslab.lab.checks.model import Check, Finding, Outcome
from egresslab.lab.progress import Progress
from tests.unit.lab.conftest import FakeBench


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def run(check: Check, bench: FakeBench) -> tuple[Outcome, float, str]:
    clock = Clock()
    verdict = engine.run(check, bench, {}, now=clock.now, sleep=clock.sleep)
    return verdict.outcome, verdict.seconds, verdict.observed


def check_of(findings: Iterator[Finding], within_s: float = 10.0) -> Check:
    return Check("made-up", "a claim", lambda bench: next(findings), ("look", "compare", "answer"), within_s)


def endless(outcome: Outcome) -> Iterator[Finding]:
    while True:
        yield Finding(outcome, "this", "that")


def test_a_check_waits_until_it_holds(bench: FakeBench) -> None:
    findings = iter([Finding(Outcome.FAIL, "a", "b")] * 3 + [Finding(Outcome.PASS, "a", "a")])
    assert run(check_of(findings), bench) == (Outcome.PASS, 3 * engine.INTERVAL_S, "a")


def test_a_check_that_never_holds_fails_when_its_time_is_up(bench: FakeBench) -> None:
    outcome, seconds, observed = run(check_of(endless(Outcome.FAIL), within_s=5.0), bench)
    assert (outcome, seconds, observed) == (Outcome.FAIL, 5.0, "that")


def test_slow_nodes_are_given_their_time_over_and_over(bench: FakeBench) -> None:
    clock, check = Clock(), check_of(endless(Outcome.FAIL), within_s=5.0)
    assert engine.run(check, bench, {}, patience=3.0, now=clock.now, sleep=clock.sleep).seconds == 15.0


def test_what_was_not_attempted_is_not_waited_for_to_the_end(bench: FakeBench) -> None:
    outcome, seconds, _ = run(check_of(endless(Outcome.NOT_ATTEMPTED), within_s=60.0), bench)
    assert (outcome, seconds) == (Outcome.NOT_ATTEMPTED, engine.ATTEMPT_S)


def test_an_error_for_users_may_pass(bench: FakeBench) -> None:
    asked = []

    def probe(_: object) -> Finding:
        asked.append(1)
        if len(asked) < 3:
            raise LabError("no agent runs there")
        return Finding(Outcome.PASS, "a", "a")

    assert run(Check("made-up", "a claim", probe, ("1", "2", "3")), bench)[0] is Outcome.PASS


def test_a_defect_of_the_check_is_an_error_at_once(bench: FakeBench) -> None:
    def probe(_: object) -> Finding:
        raise KeyError("surprise")

    outcome, seconds, observed = run(Check("made-up", "a claim", probe, ("1", "2", "3")), bench)
    assert (outcome, seconds, "surprise" in observed) == (Outcome.ERROR, 0.0, True)


def test_learning_goes_on_after_a_failure_and_solving_stops(bench: FakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ATTEMPT_S", 0.0)
    missing = {"pod": "client-1", "policy": "first-policy"}
    assert not Grader(bench, "02", Mode.LEARN, None).check("source-is-egress-ip", **missing)
    with pytest.raises(LabError, match="not attempted: expected a CiliumEgressGatewayPolicy named first-policy"):
        Grader(bench, "02", Mode.SOLVE, None).check("source-is-egress-ip", **missing)


def test_hints_come_one_by_one_and_the_last_one_stays(
    bench: FakeBench, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    progress = Progress(tmp_path / "progress.jsonl")
    grader = Grader(bench, "01", Mode.LEARN, progress)
    for _ in range(4):
        grader.hint("source-is-node")
    shown = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["hint 1 of 3", "hint 2 of 3", "hint 3 of 3", "hint 3 of 3"]
    assert [event["step"] for event in progress.events()] == [1, 2, 3, 3]


def test_an_unknown_check_names_the_nearest_one(bench: FakeBench) -> None:
    with pytest.raises(LabError, match="did you mean 'source-is-node'"):
        Grader(bench, "01", Mode.LEARN, None).check("source-is-nodes", pod="client-1")


def test_a_verdict_is_data_text_and_html(bench: FakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "INTERVAL_S", 0.0)
    bench.sources["client-1"] = "172.18.18.12"
    clock = Clock()
    check = catalogue.find("source-is-node")
    verdict = engine.run(check, bench, {"pod": "client-1"}, now=lambda: clock.time, sleep=lambda _: clock.sleep(20))
    bundle = view.bundle(verdict)
    record = json.loads(json.dumps(bundle[view.MIME]))
    assert (record["id"], record["outcome"], record["subject"]) == ("source-is-node", "fail", {"pod": "client-1"})
    for form in (bundle["text/plain"], bundle["text/html"]):
        for part in ("fail", "172.18.18.12", "192.168.60.11", "kubectl -n demo exec client-1", check.hints[0]):
            assert part in form


def test_html_is_escaped() -> None:
    verdict = engine.run(
        check_of(iter([Finding(Outcome.PASS, "<script>", "a & b")])), FakeBench({}, []), {}, sleep=lambda _: None
    )
    assert "&lt;script&gt;" in view.html(verdict)
    assert "<script>" not in view.html(verdict)


def test_every_check_has_three_different_hints() -> None:
    for check in chain(*catalogue.everything().values()):
        assert len(set(check.hints)) == 3, check.id


def test_progress_survives_a_line_that_was_cut_off(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "deep" / "progress.jsonl")
    progress.record("check", "01", check="a", outcome="fail")
    progress.record("check", "01", check="a", outcome="pass")
    progress.record("check", "01", check="a", outcome="fail")
    with progress.path.open("a") as file:
        file.write('{"event": "check", "chap')
    assert progress.best() == {("01", "a"): "pass"}
