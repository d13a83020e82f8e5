"""Dashboard, alerts and documentation speak of metrics that exist, with labels that these have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from egresslab.agent import metrics as agent
from egresslab.agent.exposition import Declaration, Exposition, Kind, Samples
from egresslab.agent.failovers import FailoverCounts
from egresslab.operator import metrics as operator
from egresslab.voter.files import Cause, Failover, LeaseReport, Report

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DECLARED = {each.name: each for each in (*agent.DECLARED, *operator.DECLARED)}
OF_THE_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "up"}
OF_THE_SCRAPER = {"instance", "job"}

SELECTOR = re.compile(r"\b((?:egresslab|process)_\w+|egresslab:[\w:]+|up)\b(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def board() -> Any:
    return json.loads((MONITORING / "dashboard.json").read_text())


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of everything that is asked."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    dashboard = board()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for note in dashboard["annotations"]["list"]:
        yield note["name"], note["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            yield variable["name"], f'{name}{{{label}="…"}}'


@pytest.mark.parametrize(("where", "expression"), [pytest.param(*pair, id=pair[0]) for pair in expressions()])
def test_what_is_asked_for_exists(where: str, expression: str) -> None:
    names, labels = set(), set(OF_THE_SCRAPER)
    for name, matchers in SELECTOR.findall(expression):
        names.add(name)
        assert name in DECLARED or name in OF_THE_PROCESS, f"{where}: no such metric: {name}"
        known = set(DECLARED[name].labels) if name in DECLARED else set()
        labels |= known
        assert set(MATCHER.findall(matchers or "")) <= known | OF_THE_SCRAPER, f"{where}: {name} has no such label"
        counter = name in DECLARED and DECLARED[name].kind is Kind.COUNTER
        assert not counter or re.search(rf"(?:rate|increase)\({name}\b", expression), f"{where}: {name} only grows"
    assert names, f"{where} asks for nothing of ours"
    for grouping in GROUPING.findall(expression):
        assert {label.strip() for label in grouping.split(",") if label.strip()} <= labels, f"{where}: {grouping}"


def test_words_of_alerts_and_legends_use_labels_that_remain() -> None:
    shown = [
        (rule["alert"], rule["expr"], " ".join(rule["annotations"].values())) for rule in rules() if "alert" in rule
    ]
    for panel in board()["panels"]:
        shown += [(panel["title"], each["expr"], each["legendFormat"]) for each in panel.get("targets", ())]
    for where, expression, words in shown:
        used = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)", words)) - {"value"}
        aggregated = re.match(r"(?:sum|max) by \(([^)]*)\)", expression)
        remain = OF_THE_SCRAPER | {label for name, _ in SELECTOR.findall(expression) for label in labels_of(name)}
        if aggregated:
            remain = {label.strip() for label in aggregated[1].split(",")}
        assert used <= remain, f"{where}: {used - remain} is not there"


def labels_of(name: str) -> tuple[str, ...]:
    return DECLARED[name].labels if name in DECLARED else ()


def test_everything_is_documented_as_it_is_declared() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    for component, declared in (("Agent", agent.DECLARED), ("Operator", operator.DECLARED)):
        section = text.partition(f"## {component}\n")[2].partition("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert rows == [
            f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels)} | {each.help} |"
            for each in declared
        ]
    alerts = [rule["alert"] for rule in rules() if "alert" in rule]
    assert re.findall(r"^\| (Egress\w+) \|", text, re.MULTILINE) == alerts


def test_names_follow_prometheus_rules() -> None:
    for each in DECLARED.values():
        assert each.name.startswith("egresslab_")
        assert each.name.endswith("_total") == (each.kind is Kind.COUNTER)


THINGS = Declaration("egresslab_things_total", Kind.COUNTER, ("colour",), "Things.")
SIZE = Declaration("egresslab_size", Kind.GAUGE, (), "Size.")


async def test_both_text_forms_can_be_read() -> None:
    async def read() -> Samples:
        return {THINGS: {("red",): 3, ("a\nb",): 4}, SIZE: {(): 1.5}}

    exposition = Exposition(read)
    plain, _ = await exposition.render("text/plain")
    modern, kind = await exposition.render("application/openmetrics-text; version=1.0.0")
    assert "openmetrics" in kind
    for families in (parse_text(plain.decode()), parse_openmetrics(modern.decode())):
        samples = {(s.name, s.labels.get("colour")): s.value for family in families for s in family.samples}
        assert samples["egresslab_things_total", "red"] == 3
        assert samples["egresslab_things_total", "a\nb"] == 4
        assert samples["egresslab_size", None] == 1.5
        assert ("process_cpu_seconds_total", None) in samples


def test_failovers_are_counted_once_by_the_node_that_takes_over() -> None:
    number = 0

    def report(move: Failover | None) -> None:
        nonlocal number
        number += 1
        lease = LeaseReport(7, "egresslab/a", "n1", number, held=True, last_failover=move)
        counts.take(Report("n1", number, 1, voter=True, leases=(lease,)))

    counts = FailoverCounts()
    assert counts.report is None
    report(Failover(10.0, None, "n1", Cause.FIRST, None))
    assert counts.moves.total() == 0, "before the first report"
    lost = Failover(20.0, "n2", "n1", Cause.LOST, 180.0)
    report(lost)
    report(lost)
    report(Failover(30.0, "n1", "n2", Cause.UNFIT, 0.0))
    report(Failover(40.0, "n2", "n1", Cause.LOST, 20.0))
    assert {key: value for key, value in counts.moves.items() if value} == {("egresslab/a", Cause.LOST): 2}
    assert counts.outage_s == {"egresslab/a": pytest.approx(0.2)}
    assert counts.last_outage_s == {"egresslab/a": pytest.approx(0.02)}
    assert counts.report is None, "nobody vouches for a report that is as old as this one"
