"""Faults of a lab on Kind, by the container runtime: a node is killed, restarted, paused, or loses its cables.

What is in force is kept in the lab's `faults.json`, since Docker does not know why a container is as it is. One command
at a time changes it; whoever carries out Fault objects (`faultkeeper`) comes by here as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.kind.commands import Commands
from egresslab.environments.kind.plan import Plan
from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.locks import Busy, locked
from egresslab.errors import EnvironmentFailure

START_S, PAUSE_S = 60.0, 0.2
INIT = "systemd"
"""What a node's first process becomes when kind's script is through."""
LOCK_PATIENCE_S = 60.0
OUTSIDE = "outside"
PAUSED = (FaultKind.HANG, FaultKind.STOP)
KILL_AGENT = "kill -9 $(pgrep -f '^python -m egresslab.agent$')"


class Faults:
    """Breaks and mends the nodes of one lab; `image` is the project's own, for what has to be done beside a node."""

    def __init__(self, plan: Plan, commands: Commands, image: str) -> None:
        self._plan = plan
        self._commands = commands
        self._image = image
        self._file = plan.state / "faults.json"

    def in_force(self) -> tuple[Fault, ...]:
        """What is broken on purpose right now."""
        try:
            found = json.loads(self._file.read_text())
        except FileNotFoundError:
            return ()
        return tuple(Fault(FaultKind(item["kind"]), item["target"], item["network"]) for item in found)

    def break_(self, fault: Fault) -> None:
        """Raises `EnvironmentFailure` for what cannot be broken here, or is broken already."""
        container = self._container(fault.target)
        networks = self._networks(fault) if fault.kind is FaultKind.CUT else ()
        with self._alone():
            if fault in self.in_force():
                raise EnvironmentFailure("is in force already", object=f"fault {fault.kind} {fault.target}")
            if fault.kind in (FaultKind.CRASH, FaultKind.POWER, FaultKind.KILL):
                self._commands.docker("kill", container)
            if fault.kind in (FaultKind.POWER, FaultKind.KILL):
                self._start(fault.target)
                return
            if fault.kind in PAUSED and not self._holds(fault.target, *PAUSED):
                self._commands.docker("pause", container)
            if networks and not self._holds(fault.target, FaultKind.CRASH):
                self._switch(fault.target, "down", networks)
            self._write([*self.in_force(), fault])

    def heal(self, target: str) -> None:
        """Mend everything of a node."""
        self._container(target)
        for fault in self.in_force():
            if fault.target == target:
                self.mend(fault)

    def mend(self, fault: Fault) -> None:
        """Mend one fault and leave every other one in force; one that is not in force changes nothing."""
        container = self._container(fault.target)
        with self._alone():
            found = self.in_force()
            if fault not in found:
                return
            # Written last: what is interrupted is mended again.
            left = [other for other in found if other != fault]
            still = [other for other in left if other.target == fault.target]
            if fault.kind is FaultKind.CRASH:
                self._start(fault.target)
            elif fault.kind in PAUSED and not any(other.kind in PAUSED for other in still):
                self._commands.docker("unpause", container)
            elif fault.kind is FaultKind.CUT and not any(other.kind is FaultKind.CRASH for other in still):
                self._switch(fault.target, "up", [n for n in self._networks(fault) if n not in self._cut(still)])
            self._write(left)

    def kill_agent(self, node: str) -> None:
        """Kill the agent of a node; raises `Busy` while none runs there."""
        if not self._commands.succeeds("docker", "exec", self._container(node), "sh", "-c", KILL_AGENT):
            raise Busy("no agent runs there now", object=f"node {node}")

    def forget(self) -> None:
        """Nothing is broken, for the lab is gone."""
        self._file.unlink(missing_ok=True)

    def attach(self, target: str) -> None:
        """Put a node on every network beyond its own, and give it its ways out; does nothing twice."""
        plan, node = self._plan, self._plan.topology.node(target)
        joined = self._joined(target)
        for name in node.addresses:
            if plan.network(name) not in joined:
                where = (plan.network(name), self._container(target))
                self._commands.docker("network", "connect", *plan.place(node, name), *where)
        self._route(target)

    def _start(self, target: str) -> None:
        container = self._container(target)
        if target == OUTSIDE:
            self._commands.docker("start", container, timeout_s=START_S)
            return
        # Docker joins networks in no order, and kind's first script takes the first address that it finds for the
        # node's. It also stumbles over a second default route. So a node starts as kind knew it.
        for name in self._plan.topology.node(target).addresses:
            if name != self._plan.topology.primary and self._plan.network(name) in self._joined(target):
                self._commands.docker("network", "disconnect", self._plan.network(name), container)
        self._commands.docker("start", container, timeout_s=START_S)
        self._wait_for_init(container)
        self.attach(target)
        if cut := self._cut(fault for fault in self.in_force() if fault.target == target):
            self._switch(target, "down", sorted(cut))

    def _switch(self, target: str, state: str, networks: Iterable[str]) -> None:
        """The other ends of a node's cables, `up` or `down` (`egresslab.environments.kind.cable`)."""
        names = [self._plan.topology.networks[network].interface for network in networks]
        if not names:
            return
        pid = self._commands.docker("container", "inspect", "--format", "{{.State.Pid}}", self._container(target))
        self._commands.docker(
            *("run", "--rm", "--privileged", "--user", "0:0", "--userns", "host", "--pid", "host", "--network", "host"),
            *(self._image, "python", "-m", "egresslab.environments.kind.cable", pid, state, *names),
            timeout_s=START_S,
        )

    def _joined(self, target: str) -> Mapping[str, object]:
        """Docker's networks that a node is on, also while it does not run."""
        found = self._commands.inspect("container", self._container(target)) or {}
        networks: Mapping[str, object] = found.get("NetworkSettings", {}).get("Networks", {})
        return networks

    def _wait_for_init(self, container: str) -> None:
        end = time.monotonic() + START_S
        while self._commands.docker("exec", container, "cat", "/proc/1/comm") != INIT:
            if time.monotonic() > end:
                raise EnvironmentFailure(
                    f"its init did not start within {START_S:g} s", object=f"container {container}"
                )
            time.sleep(PAUSE_S)

    def _route(self, target: str) -> None:
        for name in self._plan.topology.node(target).addresses:
            for words in self._plan.node_routes(name):
                self._commands.docker("exec", self._container(target), *words)

    def _holds(self, target: str, *kinds: FaultKind) -> bool:
        return any(fault.target == target and fault.kind in kinds for fault in self.in_force())

    def _cut(self, faults: Iterable[Fault]) -> set[str]:
        return {network for fault in faults if fault.kind is FaultKind.CUT for network in self._networks(fault)}

    def _networks(self, fault: Fault) -> tuple[str, ...]:
        networks = self._plan.topology.node(fault.target).addresses
        if fault.network is None:
            return tuple(networks)
        if fault.network not in networks:
            raise EnvironmentFailure(
                "is not on this network", object=f"node {fault.target}", value=fault.network, fix=", ".join(networks)
            )
        return (fault.network,)

    def _container(self, target: str) -> str:
        containers = {**self._plan.containers(), OUTSIDE: self._plan.outside}
        if target not in containers:
            raise EnvironmentFailure(
                "is no node of this lab", object=f"fault of {target}", fix=f"one of {', '.join(containers)}"
            )
        return containers[target]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        place = self._plan.state / "faults"
        with locked(place, LOCK_PATIENCE_S, f"another command that breaks or mends lab {self._plan.lab}"):
            yield

    def _write(self, faults: Iterable[Fault]) -> None:
        items = [{"kind": str(f.kind), "target": f.target, "network": f.network} for f in faults]
        write_atomically(self._file, json.dumps(items))
