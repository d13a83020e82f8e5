"""The pod that traffic comes from: any image with Python will do, the program comes with a ConfigMap.

Started, watched, stopped and read through the Kubernetes API alone. The difference between this machine's clock and
the pod's is measured, so that what is done here and what is seen there fit on one line of time.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from egresslab.api.resources import CONFIGMAPS, PODS, Object
from egresslab.errors import LabError
from egresslab.lab import nodes, waits
from egresslab.lab.client import Client
from egresslab.lab.drills import records, traffic
from egresslab.lab.drills.families import CONTROLS, TARGETS, Family
from egresslab.lab.drills.records import Observation
from egresslab.lab.execs import Running
from egresslab.lab.nodes import Pod

IMAGE = "python:3-slim"
NAME = "traffic"
MOUNT = "/drill"
READY = ("test", "-e", "/tmp/traffic/ready")
PINGS = {"name": "net.ipv4.ping_group_range", "value": "0 2147483647"}
"""Echoes without privileges (icmp(7)): not every container runtime lets them through of itself. One of the sysctls that
Kubernetes calls safe: a pod may ask for it anywhere."""
EXEC_TIMEOUT_S = 30.0
CLOCK_READINGS = 5


@dataclass(frozen=True, slots=True)
class Pattern:
    """How much traffic: datagrams and echoes each `interval_ms`; `connections` are kept open and say something each
    `connection_interval_ms`; `new_per_second` more are opened, used once and closed. Datagrams to `control`, which no
    policy selects, tell what of a gap is not the gateway's doing."""

    target: str = TARGETS[Family.IPV4]
    control: str | None = CONTROLS[Family.IPV4]
    port: int = 7777
    interval_ms: float = 10.0
    connections: int = 50
    connection_interval_ms: float = 100.0
    new_per_second: float = 10.0
    niceness: int = -10
    """Above what else the node does, so that the traffic program's own lateness stays small."""

    @classmethod
    def over(cls, family: Family, **options: Any) -> Pattern:
        """One of that family: target and control are the lab's own, unless an option names others."""
        return cls(**{"target": TARGETS[family], "control": CONTROLS[family], **options})

    @property
    def family(self) -> Family:
        """That of the target."""
        return Family.of(ipaddress.ip_address(self.target))

    def stretched(self, factor: float) -> Pattern:
        """The same, only thinner: every interval is longer by the factor. On nodes that are slow it is not put above
        all else, or whoever asks the node something waits for ever."""
        return replace(
            self,
            interval_ms=self.interval_ms * factor,
            connection_interval_ms=self.connection_interval_ms * factor,
            new_per_second=self.new_per_second / factor,
            niceness=self.niceness if factor <= 1 else 0,
        )


class Sender:
    """Traffic from one pod; `labels` are what a policy selects it by."""

    def __init__(self, client: Client, namespace: str, pattern: Pattern, *, node: str, labels: dict[str, str]) -> None:
        self._client, self._namespace, self._pattern = client, namespace, pattern
        self._node, self._labels = node, labels
        self.ahead_ns = 0
        """How far the pod's clock is ahead of ours."""

    def manifests(self) -> list[Object]:
        """What has to be applied."""
        program = Path(traffic.__file__).read_text()
        metadata: dict[str, Any] = {"name": NAME, "namespace": self._namespace}
        container = {
            "name": NAME,
            "image": IMAGE,
            "command": self._command("run", json.dumps(asdict(self._pattern))),
            "volumeMounts": [{"name": "program", "mountPath": MOUNT}],
            # Why it ended, if it does, is then in the pod's status.
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        spec = {
            "nodeSelector": {"kubernetes.io/hostname": self._node},
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": {"sysctls": [PINGS]},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": [{"name": "program", "configMap": {"name": NAME}}],
        }
        return [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"traffic.py": program}},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "labels": self._labels}, "spec": spec},
        ]

    def start(self, *, timeout_s: float) -> Pod:
        """Run the pod, and wait until every connection that is to be kept has been answered once."""
        for body in self.manifests():
            self._client.apply(CONFIGMAPS if body["kind"] == "ConfigMap" else PODS, body)
        pod = waits.wait_for("the traffic pod to run", self._running, timeout_s=timeout_s)
        interval_s = waits.INTERVAL_S * self._client.patience
        waits.wait_for("traffic to be answered", self._flowing, timeout_s=timeout_s, interval_s=interval_s)
        self.ahead_ns = self._compare_clocks()
        return pod

    def finish(self) -> Observation:
        """End the traffic and read what was seen, by our clock."""
        self._ask("stop")
        observation = records.read(self._ask("dump"))
        return observation.moved(-self.ahead_ns)

    def _command(self, *words: str) -> list[str]:
        return ["python3", f"{MOUNT}/traffic.py", *words]

    def _ask(self, *words: str) -> str:
        ended = self._client.exec(self._namespace, NAME, self._command(*words), timeout_s=EXEC_TIMEOUT_S)
        if ended.exit_code:
            said = ended.stderr.strip()[-500:] or f"exit code {ended.exit_code}"
            raise LabError(f"traffic {words[0]}: {said}", object=f"pod {self._namespace}/{NAME}")
        return ended.stdout

    def _running(self) -> Pod | waits.Pending:
        body = self._client.get(PODS, NAME, self._namespace)
        return nodes.pod(body) if nodes.ready(body) else waits.Pending(nodes.phase(body))

    def _flowing(self) -> bool | waits.Pending:
        body = self._client.get(PODS, NAME, self._namespace)
        if not nodes.ready(body):
            return waits.Pending(nodes.phase(body))
        # No Python is started for it: on an emulated processor that alone would hold the traffic up.
        ended = self._client.exec(self._namespace, NAME, READY, timeout_s=EXEC_TIMEOUT_S)
        if ended.exit_code == 0:
            return True
        return waits.Pending(ended.stderr.strip() or f"not every connection to {self._pattern.target} has an answer")

    def _compare_clocks(self) -> int:
        """The reading that came back quickest counts, as in NTP (RFC 5905, section 10)."""
        running = self._client.start(self._namespace, NAME, self._command("clock"))
        try:
            return min(_readings(running, EXEC_TIMEOUT_S * self._client.patience))[1]
        finally:
            running.close()


def _readings(running: Running, timeout_s: float) -> Sequence[tuple[int, int]]:
    """(round trip, how far the other clock is ahead), ns."""
    found: list[tuple[int, int]] = []
    for number in range(CLOCK_READINGS):
        asked = time.time_ns()
        running.write(f"{number}\n")
        running.wait_for_text(f"\n{number} ", timeout_s)
        answered = time.time_ns()
        found.append((answered - asked, int(running.stdout.split()[-1]) - (asked + answered) // 2))
    return found
