"""Who had an address, and whether ever two had it at once: a pod of the outside runs `witness`, and this reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from egresslab.api.resources import CONFIGMAPS, PODS, Object
from egresslab.errors import LabError
from egresslab.lab import nodes, waits
from egresslab.lab.client import Client
from egresslab.lab.drills import witness
from egresslab.lab.entries import IPAddress
from egresslab.lab.execs import Running

NAMESPACE, NAME = "outside", "drill-witness"
IMAGE = "python:3-slim"
INTERVAL_MS = 20.0
BACK_AND_FORTH_NS = 500_000_000
"""Nobody hands an address back that quickly."""
READY_S = 20.0
STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class Reign:
    """One owner's time: `hardware` address, from the first to the last sign of it, ns since the epoch."""

    hardware: str
    start: int
    end: int
    signs: int


@dataclass(frozen=True, slots=True)
class Owners:
    """What the witness saw: reigns in order, and the most owners there were at once."""

    reigns: tuple[Reign, ...]
    at_once: int


def owners(records: Sequence[tuple[int, str, str]]) -> Owners:
    """What the witness' records say. Two had the address at once when both answered one question, or when one shows
    itself again shortly after another has taken over; a hand-over between two questions is neither."""
    reigns: list[Reign] = []
    answered = set[str]()
    at_once = 0
    for at, kind, hardware in sorted(records):
        if kind == witness.ASKED:
            answered = set()
            continue
        if kind == witness.ANSWERED:
            answered.add(hardware)
        at_once = max(at_once, len(answered), 1)
        if reigns and reigns[-1].hardware == hardware:
            reigns[-1] = Reign(hardware, reigns[-1].start, at, reigns[-1].signs + 1)
            continue
        if len(reigns) > 1 and reigns[-2].hardware == hardware and at - reigns[-1].start < BACK_AND_FORTH_NS:
            at_once = max(at_once, 2)
        reigns.append(Reign(hardware, at, at, 1))
    return Owners(tuple(reigns), at_once)


class Watch:
    """`with Watch(…) as watch: …`; afterwards `watch.owners`, None when the API was away at the end."""

    def __init__(self, client: Client, address: IPAddress, interface: str) -> None:
        self._client, self._address, self._interface = client, address, interface
        self._running: Running | None = None
        self.owners: Owners | None = None

    def __enter__(self) -> Self:
        for resource, body in self._manifests():
            self._client.apply(resource, body)
        waits.wait_for("the witness to run", self._ready, timeout_s=READY_S * self._client.patience)
        words = ["python3", "/drill/witness.py", self._interface, str(self._address), str(INTERVAL_MS)]
        self._running = self._client.start(NAMESPACE, NAME, words)
        self._running.wait_for_text("watching", READY_S * self._client.patience)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._running is not None and kind is None:
                self._running.write("stop\n")
                ended = self._running.result(STOP_S * self._client.patience)
                self.owners = owners([tuple(record) for record in json.loads(ended.stdout)])
            elif self._running is not None:
                self._running.close()
        finally:
            for resource, body in self._manifests():
                self._client.delete(resource, body["metadata"]["name"], NAMESPACE, grace_s=0)

    def _ready(self) -> bool | waits.Pending:
        body = self._client.get(PODS, NAME, NAMESPACE)
        return nodes.ready(body) or waits.Pending(nodes.phase(body))

    def _manifests(self) -> list[tuple[Any, Object]]:
        metadata: dict[str, Any] = {"name": NAME, "namespace": NAMESPACE}
        beside = self._client.find(PODS, "capture", NAMESPACE)
        if beside is None:
            raise LabError("the world outside cannot be watched", object=f"pod {NAMESPACE}/capture")
        spec = {
            **{
                key: beside["spec"][key]
                for key in ("nodeSelector", "tolerations", "hostNetwork")
                if key in beside["spec"]
            },
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": NAME,
                    "image": IMAGE,
                    "command": ["sleep", "infinity"],
                    "securityContext": {"privileged": True},
                    "volumeMounts": [{"name": "program", "mountPath": "/drill"}],
                }
            ],
            "volumes": [{"name": "program", "configMap": {"name": NAME}}],
        }
        annotations = {"egresslab.dev/network-namespace": "outside"}
        program = {"witness.py": Path(witness.__file__).read_text()}
        return [
            (CONFIGMAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": program}),
            (
                PODS,
                {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "annotations": annotations}, "spec": spec},
            ),
        ]
