"""Orders to the builder: making a lab's network, or a node's, and pulling cables.

The builder is a child process, so whoever calls this never leaves its own network namespace. While it works it holds
the lab's lock together with us: should we be killed, nobody touches the lab until the builder is through.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable

from egresslab.environments.netns.fabric import FabricPlan
from egresslab.errors import EnvironmentFailure

DEADLINE_S = 30.0
COMMAND = (sys.executable, "-m", "egresslab.environments.netns.builder")


class Builder:
    """One order being carried out."""

    def __init__(self, order: dict[str, object], lock: int | None = None) -> None:
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=() if lock is None else (lock,),
            start_new_session=True,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order))
        self._process.stdin.close()
        self._process.stdin = None

    def wait(self) -> None:
        """Until it is done; raises `EnvironmentFailure` saying which step failed and how."""
        try:
            _, errors = self._process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            self.abandon()
            raise EnvironmentFailure(f"the network was not built within {DEADLINE_S:g} s", object="builder") from error
        if self._process.returncode == 0:
            return
        try:
            report = json.loads(errors.splitlines()[-1])
        except (IndexError, ValueError):
            raise EnvironmentFailure(f"the network could not be built: {errors[-2000:]}", object="builder") from None
        raise EnvironmentFailure(
            f"could not {report['step']}: {report['message']}", object="network", fix="see `egresslab doctor`"
        )

    def abandon(self) -> None:
        """End the builder, wherever it is."""
        self._process.kill()
        self._process.wait(DEADLINE_S)


def build(plan: FabricPlan, bridges: Iterable[str], lock: int | None = None) -> Builder:
    """Start to make the namespaces of a plan; the caller waits."""
    return Builder({"do": "build", "bridges": list(bridges), **plan.as_json()}, lock)


def switch_ports(fabric: str, ports: Iterable[str], state: str) -> None:
    """Set ports of the fabric `up` or `down`; those that do not exist are let be."""
    Builder({"do": "switch", "fabric": fabric, "ports": list(ports), "state": state}).wait()
