"""Docker, kind and helm as commands: each call has a deadline, and a failure tells in their words what went wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from egresslab.errors import EnvironmentFailure

SHOWN_LINES = 12
SHORT_S = 30.0


class Commands:
    """`environment` is added to that of this process for every command."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {**os.environ, **(environment or {})}

    def run(self, *words: str, timeout_s: float = SHORT_S, stdin: str | None = None, log: Path | None = None) -> str:
        """What the command printed on stdout. With `log`, all it prints goes there as well.

        Raises `EnvironmentFailure` with the last lines of stderr when it fails, takes too long, or is not there.
        """
        try:
            done = subprocess.run(
                words,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env=self._environment,
                check=False,
            )
        except FileNotFoundError as error:
            raise EnvironmentFailure(
                "is not installed", object=words[0], fix="`egresslab up --environment kind` says how to get it"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise EnvironmentFailure(
                f"not done after {timeout_s:g} s", object=shown(words), fix="run it by hand to see where it stands"
            ) from error
        if log is not None:
            with log.open("a") as file:
                file.write(f"$ {shown(words)}\n{done.stdout}{done.stderr}\n")
        if done.returncode:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-SHOWN_LINES:])
            raise EnvironmentFailure(
                said or f"exit {done.returncode}", object=shown(words), fix=f"the whole of it: {log}" if log else None
            )
        return done.stdout

    def succeeds(self, *words: str, timeout_s: float = SHORT_S) -> bool:
        """Whether the command ends well."""
        try:
            self.run(*words, timeout_s=timeout_s)
        except EnvironmentFailure:
            return False
        return True

    def docker(self, *words: str, timeout_s: float = SHORT_S, stdin: str | None = None) -> str:
        """`docker …`, without the end of line."""
        return self.run("docker", *words, timeout_s=timeout_s, stdin=stdin).strip()

    def inspect(self, kind: str, name: str) -> Any:
        """What Docker knows of a container, network or image; None where there is none of that name."""
        try:
            return json.loads(self.docker(kind, "inspect", name))[0]
        except EnvironmentFailure:
            return None

    def where(self, program: str) -> str | None:
        """Where a program is on the PATH of these commands."""
        return shutil.which(program, path=self._environment.get("PATH"))


def shown(words: Sequence[str]) -> str:
    """As a person would type it, cut where it is long."""
    text = " ".join(words)
    return text if len(text) <= 120 else f"{text[:117]}…"
