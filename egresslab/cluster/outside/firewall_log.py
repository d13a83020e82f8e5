"""The firewall's log: what it decided about whom, and every change of its rules, one line each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from egresslab.cluster.outside.packetlog import LoggedPacket

LOG_LIMIT_BYTES = 8 << 20


class FirewallLog:
    """The log that `kubectl -n outside logs firewall` shows; one line for each decision and each change of rules."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def packet(self, packet: LoggedPacket) -> None:
        """A packet was let in or refused."""
        self.line(str(packet))

    def line(self, text: str) -> None:
        """Append one line with the time (UTC) in front."""
        if self._path is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # Opened anew each time: the file may be removed or cut by whoever looks after it, and lines are rare.
        with self._path.open("a") as file:
            if file.tell() > LOG_LIMIT_BYTES:
                file.truncate(0)
            file.write(f"{now} {text}\n")
