"""Commands in containers, over the API's exec (WebSocket, remotecommand protocol v4): run, or start and stop later.

A running command is a socket that is read when somebody looks; no thread reads along.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import websocket
import yaml
from kubernetes import client as kube
from kubernetes import stream

from egresslab.api.connection import Unreachable
from egresslab.errors import LabError

CONNECT_TIMEOUT_S = 15.0
STDOUT, STDERR, STATUS = 1, 2, 3
"""Channel numbers of the protocol."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command in a container printed, and its exit code."""

    stdout: str
    stderr: str
    exit_code: int


class Running:
    """A command that runs in a container. Close it, or wait for its end."""

    def __init__(
        self,
        api: kube.ApiClient,
        namespace: str,
        pod: str,
        command: Sequence[str],
        *,
        container: str | None = None,
        stdin: bool,
    ) -> None:
        self.shown = f"{namespace}/{pod}: {' '.join(' '.join(command).split())}"
        try:
            self._socket = stream.stream(
                kube.CoreV1Api(api).connect_get_namespaced_pod_exec,
                pod,
                namespace,
                command=list(command),
                **({"container": container} if container else {}),
                stdin=stdin,
                stdout=True,
                stderr=True,
                tty=False,
                _preload_content=False,
                _request_timeout=CONNECT_TIMEOUT_S,
            )
        except kube.ApiException as error:
            raise LabError(f"exec was refused: {error.reason or error}", object=self.shown) from error
        except (OSError, websocket.WebSocketException) as error:
            raise Unreachable(f"exec did not start: {error}", object=self.shown) from error
        self._printed = {STDOUT: "", STDERR: ""}

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._printed[STDOUT]

    def read(self, timeout_s: float) -> None:
        """Take in what has been printed, waiting up to `timeout_s` seconds for something."""
        try:
            self._socket.update(timeout=timeout_s)
        except (OSError, websocket.WebSocketException) as error:
            raise Unreachable(f"exec broke off: {error}", object=self.shown) from error
        for channel in self._printed:
            self._printed[channel] += self._socket.read_channel(channel)

    def wait_for_text(self, text: str, timeout_s: float) -> None:
        """Wait until the command has printed `text`; `LabError` if it does not in time, or ends first."""
        deadline = time.monotonic() + timeout_s
        while text not in self._printed[STDOUT] + self._printed[STDERR]:
            left = deadline - time.monotonic()
            if left <= 0 or not self._socket.is_open():
                said = (self._printed[STDERR] or self._printed[STDOUT]).strip() or "nothing"
                raise LabError(f"waited {timeout_s:g} s for {text!r}; it said: {said}", object=self.shown)
            self.read(left)

    def write(self, text: str) -> None:
        """Send to its standard input."""
        self._socket.write_stdin(text)

    def result(self, timeout_s: float) -> ExecResult:
        """Wait for the end; `LabError` when it does not come in `timeout_s` seconds, after hanging up."""
        deadline = time.monotonic() + timeout_s
        while self._socket.is_open():
            left = deadline - time.monotonic()
            if left <= 0:
                self.close()
                raise LabError(f"has not ended after {timeout_s:g} s", object=self.shown)
            self.read(left)
        self.read(0)
        code = exit_code(self._socket.read_channel(STATUS), self.shown)
        return ExecResult(self._printed[STDOUT], self._printed[STDERR], code)

    def close(self) -> None:
        """Hang up; the command ends with its connection."""
        self._socket.close()


def exit_code(status_text: str, shown: str) -> int:
    """Exit code from the Status that closes an exec (cause `ExitCode`)."""
    status = yaml.safe_load(status_text) if status_text else None
    if not isinstance(status, dict):
        raise Unreachable("exec ended without a status", object=shown)
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise LabError(f"exec failed: {status.get('message')}", object=shown)
