"""What a lab consists of, written down before any of it is made.

Whoever finds the record after a crash knows every name there can be, and nothing else is ever removed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.paths import FABRIC, OUTSIDE, STATE, LabPaths
from egresslab.environments.netns.records import boot_id
from egresslab.environments.netns.topology import Topology, parse_topology


class Stage(StrEnum):
    """How far bringing up got: what is recorded may exist, everything exists on disk and as network, all was ready."""

    BUILDING = "building"
    BUILT = "built"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class LabRecord:
    """One lab; `since` in seconds of the epoch, `bare` without the egress controller's manifests. `machines` are the
    nodes that are virtual machines; every other one is a network namespace. `patience` is that of the environment."""

    lab: str
    boot: str
    stage: Stage
    since: float
    api_port: int
    bare: bool
    topology: dict[str, Any]
    environment: str = "netns"
    machines: tuple[str, ...] = ()
    patience: float = 1.0

    def parsed_topology(self) -> Topology:
        """The topology the lab was made from."""
        return parse_topology(self.topology, f"record of lab {self.lab}")

    def namespaces(self) -> list[str]:
        """Names of the network namespaces that the environment makes itself (pods' are the kubelets')."""
        paths = LabPaths(self.lab)
        nodes = (node["name"] for node in self.topology["nodes"] if node["name"] not in self.machines)
        return [paths.namespace(member) for member in (FABRIC, OUTSIDE, *nodes)]

    @property
    def survived(self) -> bool:
        """Whether the machine has not been restarted since."""
        return self.boot == boot_id()

    def at(self, stage: Stage) -> LabRecord:
        """The same lab, further on."""
        return replace(self, stage=stage)


def write_lab(record: LabRecord) -> None:
    """Write the record; the lab's directory must exist."""
    write_atomically(LabPaths(record.lab).record, json.dumps(asdict(record), indent=1))


def read_lab(paths: LabPaths) -> LabRecord | None:
    """The record of a lab, or None when there is no such lab."""
    try:
        content = json.loads(paths.record.read_text())
    except FileNotFoundError:
        return None
    return LabRecord(**{**content, "stage": Stage(content["stage"]), "machines": tuple(content.get("machines", ()))})


def all_labs() -> list[LabRecord]:
    """The records of every lab on this machine, by name."""
    names = sorted(path.parent.name for path in STATE.glob("*/lab.json"))
    return [record for name in names if (record := read_lab(LabPaths(name))) is not None]
