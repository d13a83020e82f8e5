"""A running machine seen from outside: QEMU's monitor (QMP), and the agent inside that runs commands for us.

Both are unix sockets in the node's folder. Nothing here keeps a connection: whoever breaks a machine must not hold it.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from egresslab.environments.netns.paths import LabPaths
from egresslab.errors import EnvironmentFailure

DEADLINE_S = 10.0
COMMAND_DEADLINE_S = 60.0
PAUSE_S = 0.1


def monitor_socket(paths: LabPaths, node: str) -> Path:
    """QEMU's monitor; the name is short, for a socket's path has 108 bytes (unix(7))."""
    return paths.node(node) / "qmp"


def agent_socket(paths: LabPaths, node: str) -> Path:
    """The guest agent's end outside."""
    return paths.node(node) / "qga"


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a command inside."""

    exit_code: int
    stdout: str
    stderr: str


class _Conversation:
    """Requests and answers, one JSON object a line; events and stale answers in between are passed over."""

    def __init__(self, node: str, path: Path, deadline_s: float) -> None:
        self._node = node
        self._until = time.monotonic() + deadline_s
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(deadline_s)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise EnvironmentFailure(
                f"its machine does not answer: {error.strerror or error}", object=f"node {node}", fix="egresslab status"
            ) from error
        self.stream: IO[str] = self._socket.makefile("rw", encoding="utf-8")

    def close(self) -> None:
        self.stream.close()
        self._socket.close()

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self.stream.write(json.dumps(request) + "\n")
            self.stream.flush()
            while True:
                self._socket.settimeout(max(0.01, self._until - time.monotonic()))
                answer = json.loads(self.stream.readline() or '{"error": {"desc": "it closed the connection"}}')
                if "error" in answer:
                    raise EnvironmentFailure(
                        f"{command}: {answer['error']['desc']}", object=f"machine of node {self._node}"
                    )
                if "return" in answer:
                    return answer["return"]
        except OSError as error:
            raise EnvironmentFailure(
                f"no answer to {command}", object=f"machine of node {self._node}", fix="egresslab status"
            ) from error


def _monitor(paths: LabPaths, node: str) -> _Conversation:
    conversation = _Conversation(node, monitor_socket(paths, node), DEADLINE_S)
    # Its greeting is passed over like an event.
    conversation.ask("qmp_capabilities")
    return conversation


def card(network: str | int) -> str:
    """QEMU's name of a node's network card, by the number of the network."""
    return f"card{network}"


def set_links(paths: LabPaths, node: str, networks: Iterable[str], *, up: bool) -> None:
    """Plug cables in or out, so that the machine sees its carrier come or go. One that is not running is let be: it
    starts with every cable in."""
    try:
        monitor = _monitor(paths, node)
    except EnvironmentFailure:
        return
    try:
        for network in networks:
            monitor.ask("set_link", {"name": card(network), "up": up})
    finally:
        monitor.close()


def reset(paths: LabPaths, node: str) -> None:
    """What the reset button does."""
    monitor = _monitor(paths, node)
    try:
        monitor.ask("system_reset")
    finally:
        monitor.close()


def run(paths: LabPaths, node: str, command: Sequence[str], *, deadline_s: float = COMMAND_DEADLINE_S) -> Ended:
    """Run a command in a machine as root and wait for its end; raises `EnvironmentFailure` when nobody answers there.

    For what Kubernetes cannot do: everything else goes through the kubelet.
    """
    agent = _Conversation(node, agent_socket(paths, node), deadline_s)
    try:
        # Whoever asked before may have left without its answer (QEMU Guest Agent protocol, guest-sync).
        token = secrets.randbits(31)
        while agent.ask("guest-sync", {"id": token}) != token:
            continue
        program, *words = command
        started = agent.ask("guest-exec", {"path": program, "arg": words, "capture-output": True})
        until = time.monotonic() + deadline_s
        while not (state := agent.ask("guest-exec-status", {"pid": started["pid"]}))["exited"]:
            if time.monotonic() > until:
                raise EnvironmentFailure(f"not done after {deadline_s:g} s: {' '.join(command)}", object=f"node {node}")
            time.sleep(PAUSE_S)
    finally:
        agent.close()
    out, err = (b64decode(state.get(name, "")).decode(errors="replace") for name in ("out-data", "err-data"))
    return Ended(int(state.get("exitcode", 128 + int(state.get("signal", 0)))), out, err)
