"""Faults of a lab on Kind, by the container runtime: a node is killed, restarted, paused, or taken off a network.

What is in force is kept in the lab's `faults.json`, since Docker does not know why a container is as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.kind.commands import Commands
from egresslab.environments.kind.plan import Plan
from egresslab.errors import EnvironmentFailure

START_S = 60.0
OUTSIDE = "outside"


class Faults:
    """Breaks and mends the nodes of one lab."""

    def __init__(self, plan: Plan, commands: Commands) -> None:
        self._plan = plan
        self._commands = commands
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
        if fault in self.in_force():
            raise EnvironmentFailure("is in force already", object=f"fault {fault.kind} {fault.target}")
        docker = self._commands.docker
        match fault.kind:
            case FaultKind.CRASH:
                docker("kill", container)
            case FaultKind.POWER | FaultKind.KILL:
                docker("kill", container)
                self._start(fault.target)
                return
            case FaultKind.HANG | FaultKind.STOP:
                docker("pause", container)
            case FaultKind.CUT:
                for network in self._networks(fault):
                    docker("network", "disconnect", self._plan.network(network), container)
        self._write([*self.in_force(), fault])

    def heal(self, target: str) -> None:
        """Mend everything of a node."""
        container = self._container(target)
        ours = [fault for fault in self.in_force() if fault.target == target]
        for fault in ours:
            match fault.kind:
                case FaultKind.CRASH:
                    self._start(target)
                case FaultKind.HANG | FaultKind.STOP:
                    self._commands.docker("unpause", container)
                case FaultKind.CUT:
                    for network in self._networks(fault):
                        self._connect(target, network)
                    self._route(target)
        self._write([fault for fault in self.in_force() if fault not in ours])

    def forget(self) -> None:
        """Nothing is broken, for the lab is gone."""
        self._file.unlink(missing_ok=True)

    def attach(self, target: str) -> None:
        """Put a node on every network beyond its own, and give it its ways out; does nothing twice."""
        seen = self._commands.inspect("container", self._container(target))["NetworkSettings"]["Networks"]
        for name in self._plan.topology.node(target).addresses:
            if self._plan.network(name) not in seen:
                self._connect(target, name)
        self._route(target)

    def _start(self, target: str) -> None:
        self._commands.docker("start", self._container(target), timeout_s=START_S)
        if target != OUTSIDE:
            self._route(target)

    def _connect(self, target: str, network: str) -> None:
        address = self._plan.address(self._plan.topology.node(target), network)
        self._commands.docker(
            "network", "connect", "--ip", address, self._plan.network(network), self._container(target)
        )

    def _route(self, target: str) -> None:
        container, on = self._container(target), self._plan.topology.node(target).addresses
        for name, route in zip(self._plan.topology.networks, self._plan.node_routes(), strict=True):
            if name in on:
                self._commands.docker("exec", container, "ip", *route.split())

    def _networks(self, fault: Fault) -> Iterable[str]:
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

    def _write(self, faults: Iterable[Fault]) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps([{"kind": str(f.kind), "target": f.target, "network": f.network} for f in faults]))
        fresh.replace(self._file)
