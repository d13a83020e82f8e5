"""How a notebook comes by a kubeconfig: from a lab on this machine, brought up if need be, or from KUBECONFIG.

Bringing up happens in a child process: the kernel that runs a notebook has an event loop and threads of its own and
must never enter another namespace.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from egresslab.api.resources import NODES
from egresslab.environments.definitions import definitions
from egresslab.errors import EgresslabError, EnvironmentFailure, LabError
from egresslab.lab import nodes
from egresslab.lab.client import Client

DEFAULT_LAB = "default"
KUBECONFIG_TIMEOUT_S = 30.0
DOWN_TIMEOUT_S = 60.0
DOCTOR = "egresslab doctor"
UP_ALREADY = "is up already"
OUTSIDE_CLUSTER = "kubeconfig"
"""The environment's name for "whatever KUBECONFIG points at"."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A cluster to talk to; `created` tells whether this call brought it up."""

    environment: str
    lab: str
    kubeconfig: Path
    created: bool

    @property
    def patience(self) -> float:
        """By how many times longer than usual what a node does may take there."""
        if self.environment != "vm":
            return 1.0
        from egresslab.environments.netns.environment import NetnsEnvironment  # which few need

        return NetnsEnvironment(self.lab).patience


def attach(environment: str, lab: str, *, timeout_s: float, say: Say, topology: str = "") -> Attachment:
    """The lab's kubeconfig, after bringing the lab up if it is not; `say` is told of the progress.

    Raises `LabError` when there is no kubeconfig to be had, `EnvironmentFailure` when the lab does not come up in time.
    """
    if environment == OUTSIDE_CLUSTER:
        return Attachment(environment, lab, kubeconfig_of_variable(), created=False)
    path = running(environment, lab)
    if path is not None:
        return Attachment(environment, lab, path, created=False)
    output = _run(command("up", environment, lab, topology=topology), timeout_s=timeout_s)
    for line in output.splitlines():
        say(line)
    path = Path(_run(command("kubeconfig", environment, lab), timeout_s=KUBECONFIG_TIMEOUT_S).strip())
    return Attachment(environment, lab, path, created=UP_ALREADY not in output)


def down(environment: str, lab: str) -> None:
    """Take a lab down; raises `EnvironmentFailure` when that fails."""
    _run(command("down", environment, lab), timeout_s=DOWN_TIMEOUT_S)


def running(environment: str, lab: str) -> Path | None:
    """The kubeconfig of a lab that answers and whose nodes are all Ready; None for one that has to be brought up."""
    try:
        path = Path(_run(command("kubeconfig", environment, lab), timeout_s=KUBECONFIG_TIMEOUT_S).strip())
        client = Client(path)
    except EgresslabError:
        return None
    try:
        found = [nodes.node(body) for body in client.list(NODES)]
    except EgresslabError:
        return None
    finally:
        client.close()
    return path if found and all(node.ready for node in found) else None


def command(verb: str, environment: str, lab: str, *, topology: str = "") -> list[str]:
    """The `egresslab` command that does `verb` (up, down, kubeconfig) to a lab.

    `topology` names a file of the environment's definitions; `LabError` if there is none of that name.
    """
    words = [sys.executable, "-m", "egresslab.cli.main", verb, "--environment", environment, "--lab", lab]
    if topology:
        # Labs of machines have the topologies of labs of namespaces.
        path = definitions("netns" if environment == "vm" else environment) / f"{topology}.yaml"
        if not path.is_file():
            raise LabError("there is no such topology", object=f"environment {environment}", value=topology)
        words += ["--topology", str(path)]
    return words


def shown(words: Sequence[str]) -> str:
    """A command from `command` as a person would type it."""
    return f"egresslab {' '.join(words[3:])}"


def kubeconfig_of_variable() -> Path:
    """The file that KUBECONFIG names, or kubectl's default; `LabError` if it is not there."""
    value = os.environ.get("KUBECONFIG", "")
    path = Path(value) if value else Path.home() / ".kube" / "config"
    if not path.is_file():
        raise LabError("there is no such file", object="KUBECONFIG", value=str(path), fix="export KUBECONFIG=PATH")
    return path


def _run(words: Sequence[str], *, timeout_s: float) -> str:
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            process.terminate()
            raise EnvironmentFailure(f"not done after {timeout_s:g} s", object=shown(words), fix=DOCTOR) from error
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise EnvironmentFailure(output.strip() or "failed without a word", object=shown(words), fix=DOCTOR)
    return output
