"""Checks of chapter 10: flows, reasons and counters against the packets that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from egresslab.flows.flow import Event, Flow, Verdict
from egresslab.lab.checks.model import Bench, Check, Finding, Outcome
from egresslab.lab.observe import Flows

RECENTLY = "10s"
PINGS = 5
COUNTERS = {"TRANSLATED": "gateway", "STEERED": "home"}
"""Which of the pod's packets each of the two nodes counts, and as what."""


def flow_tells_the_truth(bench: Bench, pod: str, url: str, gateway: str) -> Finding:
    """The address that a server outside saw is the one in the newest flow, which the gateway told."""
    answer = bench.reach(pod, url)
    told = _newest(bench.observe(pod, since=RECENTLY), url, Event.OPENED)
    command = f"egresslab observe -n {bench.current_namespace} --pod {pod} --last 1"
    expected = f"a flow through {gateway}, as {answer}"
    if told is None:
        return Finding(Outcome.FAIL, expected, "no flow", command)
    right = told.egress is not None and told.egress.ip == answer.address and told.node == told.gateway == gateway
    return Finding(Outcome.PASS if right else Outcome.FAIL, expected, _said(told), command)


def drop_has_a_reason(bench: Bench, pod: str, url: str, reason: str, node: str) -> Finding:
    """A request has no answer, and the node that dropped its packets says why."""
    answer = bench.reach(pod, url)
    told = _newest(bench.observe(pod, since=RECENTLY), url, Event.DROPPED)
    command = f"egresslab observe -n {bench.current_namespace} --pod {pod} --verdict dropped --last 1"
    expected = f"no answer, and {reason} told by {node}"
    observed = f"{answer}; {_said(told) if told else 'nothing was told'}"
    right = answer.address is None and told is not None and (told.reason, told.node) == (reason, node)
    return Finding(Outcome.PASS if right else Outcome.FAIL, expected, observed, command)


def counters_count(bench: Bench, pod: str, destination: str, gateway: str) -> Finding:
    """Some pings, and the counters of both nodes before and after."""
    nodes = {"gateway": gateway, "home": bench.pod(pod).node}
    addresses = {str(node.name): str(node.address()) for node in bench.nodes}
    urls = {role: f"http://{addresses[name]}:9880/metrics" for role, name in nodes.items()}
    before = {role: _packets(bench, pod, url) for role, url in urls.items()}
    bench.exec(pod, ["ping", "-q", "-c", str(PINGS), "-i", "0.1", "-W", "1", destination], check=False, show=False)
    after = {role: _packets(bench, pod, url) for role, url in urls.items()}
    grown = {outcome: after[role][outcome] - before[role][outcome] for outcome, role in COUNTERS.items()}
    return Finding(
        Outcome.PASS if set(grown.values()) == {PINGS} else Outcome.FAIL,
        f"{PINGS} pings: STEERED {PINGS} more on {nodes['home']}, TRANSLATED {PINGS} more on {gateway}",
        ", ".join(f"{outcome} {number:g} more" for outcome, number in sorted(grown.items())),
        f"kubectl -n {bench.current_namespace} exec {pod} -- curl -s {urls['gateway']}",
    )


def who_is_dropped(
    bench: Bench, answer: Mapping[str, str] | None, pods: Sequence[str], destinations: Mapping[str, str]
) -> Finding:
    """Every pod asks every destination (name to URL); who has no answer, and what is told about it, is the answer."""
    expected = 'a dictionary with "pod", "destination" (a name) and "reason"'
    command = f"egresslab observe -n {bench.current_namespace} --verdict dropped"
    if answer is None:
        return Finding(Outcome.NOT_ATTEMPTED, expected, "no answer yet", command)
    if set(answer) != {"pod", "destination", "reason"}:
        return Finding(Outcome.FAIL, expected, str(dict(answer)), command)
    silent = [
        (pod, name) for pod in pods for name, url in destinations.items() if bench.reach(pod, url).address is None
    ]
    claimed = (answer["pod"].rpartition("/")[2], answer["destination"])
    if silent != [claimed]:
        observed = ", ".join(f"{pod} to {name}" for pod, name in silent) or "everybody"
        verb = "has no answer" if silent else "has an answer"
        return Finding(Outcome.FAIL, f"no answer for {claimed[0]} to {claimed[1]} alone", f"{observed} {verb}", command)
    told = _newest(bench.observe(claimed[0], since=RECENTLY), destinations[claimed[1]], Event.DROPPED)
    reason = told.reason if told is not None else "nothing"
    right = reason == answer["reason"].upper()
    return Finding(
        Outcome.PASS if right else Outcome.FAIL, f"dropped for {answer['reason']}", f"{reason} is told", command
    )


def _newest(flows: Flows, url: str, event: Event) -> Flow | None:
    host = urlsplit(url).hostname
    found = [flow for flow in flows.flows if str(flow.destination.ip) == host and flow.event is event]
    return found[-1] if found else None


def _said(flow: Flow) -> str:
    if flow.verdict is Verdict.DROPPED:
        return f"{flow.node} told: dropped, {flow.reason}"
    return f"{flow.node} told: as {flow.egress.ip if flow.egress else 'itself'}"


def _packets(bench: Bench, pod: str, url: str) -> dict[str, float]:
    text = bench.exec(pod, ["curl", "-sS", "--max-time", "3", url], show=False).stdout
    samples: list[Any] = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "egresslab_packets_total"
    ]
    return dict.fromkeys(COUNTERS, 0.0) | {sample.labels["outcome"]: sample.value for sample in samples}


CHECKS = (
    Check(
        "flow-tells-the-truth",
        "what observers are told is what arrived outside",
        flow_tells_the_truth,
        (
            "Compare two witnesses: the server's answer, and the newest flow of the pod.",
            "The flow's column EGRESS IP is the address after translation; NODE is whose kernel told it.",
            "egresslab observe --last 1: EGRESS IP must be the address that the server answered with.",
        ),
    ),
    Check(
        "drop-has-a-reason",
        "a dropped packet is told with its reason, by the node that dropped it",
        drop_has_a_reason,
        (
            "Ask for drops alone: --verdict dropped.",
            "NODE tells where the packet ended: on the pod's node, or on the gateway.",
            "egresslab observe --verdict dropped --last 1: EVENT is the reason.",
        ),
    ),
    Check(
        "counters-count-packets",
        "counters grow by the packets that were sent, on both nodes",
        counters_count,
        (
            "Read /metrics of the pod's node and of the gateway, before and after.",
            "The pod's node STEERs into the tunnel, the gateway has it TRANSLATED.",
            "curl http://NODE:9880/metrics, and compare egresslab_packets_total by outcome.",
        ),
        within_s=8.0,
    ),
    Check(
        "who-is-dropped",
        "the pod whose packets are dropped was found, with the destination and the reason",
        who_is_dropped,
        (
            "Have all pods ask all destinations, then ask for drops of this namespace.",
            "lab.observe(verdict='DROPPED') has the pod, the destination's name and the reason in one row.",
            "EVENT is the reason; NODE is the gateway here, since it is there that something is missing: an address.",
        ),
        within_s=15.0,
    ),
)
