"""Names and places of one lab on the host; the table "Names on the host" of docs/contracts.md in code.

It computes paths and reads directories; it never changes anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from egresslab.errors import EnvironmentFailure

STATE = Path("/run/egresslab")
NAMESPACES = Path("/run/netns")
LAB_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,14}[a-z0-9])?")
OUTSIDE = "outside"
FABRIC = "fabric"


@dataclass(frozen=True, slots=True)
class LabPaths:
    """Where lab `lab` keeps what. Raises `EnvironmentFailure` for a name that could not stand in file names."""

    lab: str

    def __post_init__(self) -> None:
        if not LAB_NAME.fullmatch(self.lab):
            raise EnvironmentFailure(
                "not a name for a lab",
                object="lab",
                field="name",
                value=self.lab,
                fix="use up to 16 lower-case letters, digits and '-', with a letter or digit at both ends",
            )

    @property
    def root(self) -> Path:
        """Directory that holds everything of the lab."""
        return STATE / self.lab

    @property
    def record(self) -> Path:
        """What the lab consists of; written before anything is made, removed last."""
        return self.root / "lab.json"

    @property
    def processes(self) -> Path:
        """Process records."""
        return self.root / "processes"

    @property
    def plan(self) -> Path:
        """Which processes the supervisor keeps alive."""
        return self.root / "supervisor.json"

    @property
    def held(self) -> Path:
        """A file in here, named after a process, tells the supervisor to leave it dead."""
        return self.root / "held"

    @property
    def faults(self) -> Path:
        """One JSON file for each fault in force."""
        return self.root / "faults"

    @property
    def fault_objects(self) -> Path:
        """One JSON file for each Fault object whose fault was done and not yet mended."""
        return self.root / "fault-objects"

    @property
    def stopping(self) -> Path:
        """While this exists no supervisor starts anything."""
        return self.root / "stopping"

    @property
    def logs(self) -> Path:
        """One file for each process."""
        return self.root / "log"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def tokens(self) -> Path:
        """Static tokens, in the format of kube-apiserver's --token-auth-file."""
        return self.root / "tokens.csv"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    def node(self, node: str) -> Path:
        """Everything of one node."""
        return self.root / "nodes" / node

    def node_root(self, node: str) -> Path:
        """What the node's containers see as the host's root."""
        return self.node(node) / "root"

    def bpffs(self, node: str) -> Path:
        """Mount point of the node's own bpffs."""
        return self.node_root(node) / "sys" / "fs" / "bpf"

    def node_config(self, node: str) -> Path:
        """Configuration of the node process."""
        return self.node(node) / "config.json"

    def log(self, process: str) -> Path:
        """Log of one process."""
        return self.logs / f"{process}.log"

    def namespace(self, member: str) -> str:
        """Name of the network namespace of a node, of `outside` or of `fabric`."""
        return f"egresslab-{self.lab}-{member}"

    def namespace_file(self, member: str) -> Path:
        """Where that namespace is bound."""
        return NAMESPACES / self.namespace(member)

    def pod_namespaces(self) -> list[str]:
        """Namespaces of the lab's pods. No other lab can have such names: a node is never named by 8 hex digits."""
        own = re.compile(rf"egresslab-{self.lab}-pod-[0-9a-f]{{8}}")
        names = (entry.name for entry in NAMESPACES.iterdir()) if NAMESPACES.is_dir() else ()
        return [name for name in names if own.fullmatch(name)]
