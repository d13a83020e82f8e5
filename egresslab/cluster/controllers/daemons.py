"""Which nodes a DaemonSet wants its pod on, and the pods to add and take away to get there. Pure.

Rules are Kubernetes' ("DaemonSet"): a taint with NoSchedule keeps new pods out and lets running ones stay, one with
NoExecute does not; a rolling update deletes old pods as far as `maxUnavailable` allows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from egresslab.api.resources import Object
from egresslab.cluster.controllers.affinity import parse_affinity
from egresslab.cluster.controllers.facts import NodeFacts, PodFacts
from egresslab.cluster.controllers.podstate import available_in_s, is_finished, is_terminating, moment
from egresslab.cluster.controllers.rollout import share
from egresslab.cluster.controllers.scheduling import matches_node
from egresslab.cluster.controllers.tolerations import (
    HARD,
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    Effect,
    parse_tolerations,
    untolerated,
)

HASH_LABEL = "controller-revision-hash"
FAILED_PAUSE_S = 5.0
"""A pod that failed at once is not replaced before this age, so that a broken template does not spin."""

_BORNE = (
    (NOT_READY, Effect.NO_EXECUTE),
    (UNREACHABLE, Effect.NO_EXECUTE),
    ("node.kubernetes.io/disk-pressure", Effect.NO_SCHEDULE),
    ("node.kubernetes.io/memory-pressure", Effect.NO_SCHEDULE),
    ("node.kubernetes.io/pid-pressure", Effect.NO_SCHEDULE),
    (UNSCHEDULABLE, Effect.NO_SCHEDULE),
)
_NETWORK = ("node.kubernetes.io/network-unavailable", Effect.NO_SCHEDULE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a node should get the pod (`run`), and whether one that is there may stay (`keep`)."""

    run: bool
    keep: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes to create a pod for and pods to delete; `wait_s` says when to look again without any change."""

    create: tuple[str, ...]
    delete: tuple[Object, ...]
    wait_s: float | None = None


def tolerated_template(template: Object) -> Object:
    """The template with the tolerations that every daemon has, so that it runs on nodes in trouble too."""
    result = copy.deepcopy(template)
    spec = result["spec"]
    borne = (*_BORNE, _NETWORK) if spec.get("hostNetwork") else _BORNE
    extra = [{"key": key, "operator": "Exists", "effect": effect.value} for key, effect in borne]
    known = spec.get("tolerations") or []
    spec["tolerations"] = [*known, *(item for item in extra if item not in known)]
    return result


def pinned_template(template: Object, node: str) -> Object:
    """The template bound to one node by node affinity on its name, which leaves the binding to the scheduler."""
    result = copy.deepcopy(template)
    affinity = result["spec"].setdefault("affinity", {})
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    wanted = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    affinity["nodeAffinity"] = {**(affinity.get("nodeAffinity") or {}), **wanted}
    return result


def target_of(pod: Object) -> str:
    """The node a daemon's pod is on or meant for, "" when it says neither."""
    spec = pod["spec"]
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    for term in parse_affinity(spec, "").node or ():
        for field in term.fields:
            if field.key == "metadata.name" and len(field.values) == 1:
                return field.values[0]
    return ""


def verdict(template: Object, node: NodeFacts) -> Verdict:
    """Whether `node` is one for the (tolerated) template."""
    spec = template["spec"]
    facts = PodFacts(
        uid="",
        namespace="",
        name="",
        labels={},
        owner="",
        node="",
        node_selector=spec.get("nodeSelector") or {},
        affinity=parse_affinity(spec, ""),
    )
    if spec.get("nodeName") not in (None, "", node.name) or not matches_node(facts, node):
        return Verdict(False, False)
    tolerations = parse_tolerations(spec)
    run = untolerated(node.taints, tolerations, HARD) is None
    return Verdict(run, untolerated(node.taints, tolerations, (Effect.NO_EXECUTE,)) is None)


def plan(spec: Object, verdicts: Mapping[str, Verdict], pods: Sequence[Object], revision: str, at: datetime) -> Plan:
    """What to do now for a DaemonSetSpec, given a verdict for each node and the pods that are owned."""
    create: list[str] = []
    delete: list[Object] = []
    waits: list[float] = []
    places = by_node(pods)
    for name, ruling in sorted(verdicts.items()):
        here = places.get(name, [])
        if not here and ruling.run:
            create.append(name)
        going = _unwanted(here, ruling, at, waits)
        delete += going
    for name, lost in places.items():
        if name not in verdicts:
            # Pods bound to a node that is gone are the pod collector's.
            delete += [pod for pod in lost if not pod["spec"].get("nodeName") and not is_terminating(pod)]
    if (spec.get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate":
        doomed = {pod["metadata"]["uid"] for pod in delete}
        delete += _outdated(spec, verdicts, places, revision, at, doomed)
    return Plan(tuple(create), tuple(delete), min(waits, default=None))


def by_node(pods: Sequence[Object]) -> dict[str, list[Object]]:
    """Pods by the node they are on or meant for; bound before unbound, then the oldest first."""
    places: dict[str, list[Object]] = {}
    for pod in pods:
        places.setdefault(target_of(pod), []).append(pod)
    for here in places.values():
        here.sort(
            key=lambda pod: (
                not pod["spec"].get("nodeName"),
                pod["metadata"].get("creationTimestamp") or "",
                pod["metadata"]["name"],
            )
        )
    return places


def _unwanted(here: Sequence[Object], ruling: Verdict, at: datetime, waits: list[float]) -> list[Object]:
    staying = [pod for pod in here if not is_terminating(pod)]
    if not ruling.keep:
        return staying
    going, kept = [], 0
    for pod in staying:
        if is_finished(pod):
            born = moment(pod["metadata"].get("creationTimestamp")) or at
            left_s = FAILED_PAUSE_S - (at - born).total_seconds()
            if left_s > 0:
                waits.append(left_s)
            else:
                going.append(pod)
        elif kept:
            going.append(pod)
        else:
            kept += 1
    return going


def _outdated(
    spec: Object,
    verdicts: Mapping[str, Verdict],
    places: Mapping[str, Sequence[Object]],
    revision: str,
    at: datetime,
    doomed: set[str],
) -> list[Object]:
    """Old pods to replace now: all that serve nobody, and others as far as the budget goes, in order of nodes."""
    wanted = [name for name, ruling in sorted(verdicts.items()) if ruling.run]
    rolling = (spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
    budget = max(1, share(rolling.get("maxUnavailable", 1), len(wanted), up=True))
    useless, candidates = [], []
    for name in wanted:
        here = [
            pod
            for pod in places.get(name, ())
            if not is_terminating(pod) and not is_finished(pod) and pod["metadata"]["uid"] not in doomed
        ]
        available = [pod for pod in here if available_in_s(pod, spec.get("minReadySeconds") or 0, at) == 0]
        old = [pod for pod in here if not is_updated(pod, revision)]
        if not available:
            budget -= 1
            useless += old
        else:
            candidates += old
    return useless + candidates[: max(0, budget)]


def is_updated(pod: Object, revision: str) -> bool:
    """Whether the pod was made from the present template."""
    return (pod["metadata"].get("labels") or {}).get(HASH_LABEL) == revision


def status(
    owner: Object, verdicts: Mapping[str, Verdict], pods: Sequence[Object], revision: str, at: datetime
) -> tuple[Object, float | None]:
    """The status of DaemonSet `owner`, and in how many seconds it changes by the passing of time alone."""
    places = by_node([pod for pod in pods if not is_finished(pod)])
    wanted = [name for name, ruling in verdicts.items() if ruling.run]
    first = [places[name][0] for name in wanted if places.get(name)]
    waits = [available_in_s(pod, owner["spec"].get("minReadySeconds") or 0, at) for pod in first]
    available = sum(wait == 0 for wait in waits)
    result: Object = {
        "currentNumberScheduled": len(first),
        "numberMisscheduled": sum(bool(places.get(name)) for name, ruling in verdicts.items() if not ruling.run),
        "desiredNumberScheduled": len(wanted),
        "numberReady": sum(wait is not None for wait in waits),
        "updatedNumberScheduled": sum(is_updated(pod, revision) for pod in first),
        "numberAvailable": available,
        "numberUnavailable": len(wanted) - available,
        "observedGeneration": owner["metadata"].get("generation", 0),
    }
    return result, min((wait for wait in waits if wait), default=None)
