"""Nodes broken and mended by Fault objects: whoever runs the nodes carries them out, so whoever drills needs no root.

A Fault that is deleted stays until what it broke is mended (its finalizer), so deleting it is also the wait.
"""

from __future__ import annotations

from enum import StrEnum

from egresslab.api.resources import FAULTS, Object
from egresslab.errors import ClusterError, LabError
from egresslab.lab import waits
from egresslab.lab.client import Client
from egresslab.lab.ownership import RUN_LABEL

STRUCK_S = 20.0
MENDED_S = 60.0
FIX = "use a lab of egresslab's own, `--mode agent-kill`, or the maintenance drill"


class Strike(StrEnum):
    """`spec.type` of a Fault that breaks a node."""

    CRASH = "Crash"
    CUT = "Cut"
    PARTITION = "Partition"


class Strikes:
    """The Faults of one run; `mend` what was struck whatever happened in between."""

    def __init__(self, client: Client, run: str) -> None:
        self._client, self._run = client, run
        self._names: list[str] = []

    def strike(self, kind: Strike, node: str, network: str | None = None) -> None:
        """Break a node, and return when it is broken. `LabError` where nobody can, or what was asked cannot be done."""
        name = f"drill-{self._run}-{len(self._names)}"
        spec = {"type": kind.value, "target": node} | ({"network": network} if network else {})
        metadata = {"name": name, "labels": {RUN_LABEL: self._run}}
        body: Object = {"apiVersion": FAULTS.api_version, "kind": FAULTS.kind, "metadata": metadata, "spec": spec}
        self._names.append(name)
        try:
            self._client.apply(FAULTS, body)
        except ClusterError as error:
            raise LabError("nobody here can break nodes", object=f"node {node}", value=str(error), fix=FIX) from error

        def answered() -> Object | waits.Pending:
            status: Object = self._client.get(FAULTS, name).get("status") or {}
            return status if status.get("phase") in ("Active", "Failed") else waits.Pending(status or "no answer")

        patience = STRUCK_S * self._client.patience
        said = waits.wait_for(f"fault {name} to be done", answered, timeout_s=patience, interval_s=0.02)
        if said["phase"] == "Failed":
            raise LabError(f"could not be broken: {said.get('message')}", object=f"node {node}")

    def mend(self) -> None:
        """Mend everything, and return when it is; safe to repeat."""
        for name in self._names:
            self._client.delete(FAULTS, name)
        patience = MENDED_S * self._client.patience
        for name in self._names:
            waits.wait_for(f"fault {name} to be mended", lambda name=name: self._gone(name), timeout_s=patience)  # type: ignore[misc]
        self._names.clear()

    def _gone(self, name: str) -> bool | waits.Pending:
        left = self._client.find(FAULTS, name)
        return left is None or waits.Pending(left.get("status"))
