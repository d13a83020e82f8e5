"""What the agent wants voted about: `voting.json`, read whenever it is another."""

from __future__ import annotations

import logging
from pathlib import Path

from egresslab.voter.files import Voting, read_voting

logger = logging.getLogger(__name__)


class VotingFile:
    """Remembers which version was read last. To look costs one system call, and nothing else is done meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Whether another version is there than the one read last."""
        return self._version() not in (None, self._read)

    def read(self) -> Voting | None:
        """None when it is not there, is what it was, or cannot be read, which is said once."""
        version = self._version()
        if version in (None, self._read):
            return None
        self._read = version
        try:
            return read_voting(self._path)
        except (ValueError, OSError) as error:
            logger.error("%s", error)
            return None

    def _version(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size
