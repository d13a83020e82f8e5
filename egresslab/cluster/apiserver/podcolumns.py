"""A pod in one row: READY, STATUS and RESTARTS, told from its phase, conditions and containers as Kubernetes tells
them.

The STATUS column is not the phase: waiting and terminated containers, init containers and deletion all speak first.
"""

from __future__ import annotations

from typing import Any

from egresslab.api.resources import Object
from egresslab.cluster.apiserver.ages import age


def cells(pod: Object) -> list[Any]:
    """Cells of one pod: name, ready, status, restarts, age, IP, node, nominated node, readiness gates."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    containers = spec.get("containers") or []
    states = status.get("containerStatuses") or []
    side = _sidecars(spec)
    initial = status.get("initContainerStatuses") or []
    ready = sum(bool(state.get("ready")) for state in states)
    ready += sum(bool(state.get("ready")) for state in initial if state["name"] in side)
    counted = states + [state for state in initial if state["name"] in side]
    word, initialising = _initial_word(spec, initial, side)
    if initialising:
        counted = initial + [state for state in counted if state not in initial]
    else:
        word = _running_word(status, states, word)
    if metadata.get("deletionTimestamp"):
        word = "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    conditions = {c["type"]: c.get("status") for c in status.get("conditions") or ()}
    gates = spec.get("readinessGates") or ()
    passed = sum(conditions.get(gate["conditionType"]) == "True" for gate in gates)
    addresses = status.get("podIPs") or ()
    return [
        metadata["name"],
        f"{ready}/{len(containers) + len(side)}",
        word or status.get("reason") or status.get("phase", ""),
        _restarts(counted),
        age(metadata.get("creationTimestamp")),
        (addresses[0].get("ip") if addresses else status.get("podIP")) or "<none>",
        spec.get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        f"{passed}/{len(gates)}" if gates else "<none>",
    ]


def _sidecars(spec: Object) -> set[str]:
    return {item["name"] for item in spec.get("initContainers") or () if item.get("restartPolicy") == "Always"}


def _restarts(states: list[Object]) -> str:
    count = sum(state.get("restartCount", 0) for state in states)
    moments = [
        finished
        for state in states
        if (finished := ((state.get("lastState") or {}).get("terminated") or {}).get("finishedAt"))
    ]
    return f"{count} ({age(max(moments))} ago)" if count and moments else str(count)


def _initial_word(spec: Object, states: list[Object], side: set[str]) -> tuple[str, bool]:
    total = len(spec.get("initContainers") or ())
    for index, status in enumerate(states):
        state = status.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended is not None and ended.get("exitCode") == 0:
            continue
        if status["name"] in side and status.get("started"):
            continue
        if ended is not None:
            return f"Init:{_end(ended)}", True
        if waiting and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}", True
        return f"Init:{index}/{total}", True
    return "", False


def _running_word(status: Object, states: list[Object], word: str) -> str:
    running = False
    for container in reversed(states):
        state = container.get("state") or {}
        waiting, ended = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason"):
            word = waiting["reason"]
        elif ended is not None:
            word = _end(ended)
        elif container.get("ready") and state.get("running") is not None:
            running = True
    if word == "Completed" and running:
        ready = any(c["type"] == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
        return "Running" if ready else "NotReady"
    if not word and not status.get("reason"):
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition.get("reason") == "SchedulingGated":
                return "SchedulingGated"
    return word


def _end(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    signal = terminated.get("signal")
    return f"Signal:{signal}" if signal else f"ExitCode:{terminated.get('exitCode', 0)}"
