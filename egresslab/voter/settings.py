"""Where a voter finds its files, and which ports it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egresslab.datapath.probe import PORT as PROBE_PORT
from egresslab.voter.files import RUN_DIR
from egresslab.voter.messages import PORT as MESSAGE_PORT

ANNOUNCER_MESSAGES, ANNOUNCER_PROBES = 9887, 9888
"""UDP ports of the voter that stands on its own, which an agent's may run beside."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a voter finds the agent's file and the node's maps."""

    run_dir: Path = RUN_DIR
    pin_dir: Path | None = Path("/sys/fs/bpf/egresslab")
    """None where another datapath has the node: then this process counts grants and carries addresses itself."""
    probe_port: int = PROBE_PORT
    message_port: int = MESSAGE_PORT

    @property
    def voting(self) -> Path:
        return self.run_dir / "voting.json"

    @property
    def report(self) -> Path:
        return self.run_dir / "voter.json"

    @property
    def ready(self) -> Path:
        """There while the voter grants: a readiness probe that looks for it makes a roll-out wait before it stops the
        next one."""
        return self.run_dir / "voter-ready"
