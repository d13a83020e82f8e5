"""One run of a container: a bubblewrap process that outlives the kubelet, the record of it, and how it ended.

bubblewrap's monitor writes the exit code into a file when the program ends, so nothing of ours has to be there. The
record names the monitor and the first process inside by PID and start time; killing the latter ends all inside.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from egresslab.cluster.node.logs import LogFile, LogRequest
from egresslab.cluster.node.processes import (
    Identity,
    adopted,
    children,
    is_alive,
    kill_all,
    reap,
    send_signal,
    wait_gone,
)

RECORD, STATUS, LOG, TERMINATION, SOCKET = "record.json", "status.json", "log", "termination", "input"
MESSAGE_LIMIT = 4096
START_ERROR = 128
LOST = 137
RUN_VARIABLE = "EGRESSLAB_RUN"
"""Names a run's directory in bubblewrap's own environment, so that one without a record can be found and ended."""

LAUNCHER = "bwrap: "
"""How bubblewrap begins what it says itself."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended; `finished_ns` in nanoseconds of the epoch, `reason` in Kubernetes' words."""

    code: int
    reason: str
    finished_ns: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What has to be known of a running container to take it over; `started_ns` in nanoseconds of the epoch.

    `number` counts the runs of a container in its pod from 0. `environment`, `working_dir` and `security` are what a
    command executed inside later gets as well.
    """

    name: str
    number: int
    id: str
    image: str
    image_id: str
    monitor: Identity
    init: Identity | None
    keeper: Identity | None
    started_ns: int
    environment: dict[str, str] = field(repr=False)
    working_dir: str = "/"
    privileged: bool = False
    capabilities: tuple[str, ...] = ()
    user: int = 0
    group: int = 0
    groups: tuple[int, ...] = ()
    tty: bool = False
    stdin_once: bool = False
    fallback_to_logs: bool = False

    def processes(self) -> list[Identity]:
        """Those to kill, the one that ends all others first."""
        return [identity for identity in (self.init, self.monitor, self.keeper) if identity is not None]


def _identity(value: Any) -> Identity | None:
    return None if value is None else Identity(**value)


def read_record(directory: Path) -> Record | None:
    """The record in a run's directory, or None when it was never written completely."""
    try:
        data = orjson.loads((directory / RECORD).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    for key in ("monitor", "init", "keeper"):
        data[key] = _identity(data[key])
    for key in ("capabilities", "groups"):
        data[key] = tuple(data[key])
    return Record(**data)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file that only root may read."""
    draft = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    draft.replace(path)


class Container:
    """A run that has been started, by us or by an earlier kubelet."""

    def __init__(self, directory: Path, record: Record) -> None:
        self.directory = directory
        self.record = record
        self.log = LogFile(directory / LOG)
        self.attached = False

    @classmethod
    def load(cls, directory: Path) -> Container | None:
        """From a run's directory, whether it still runs or not."""
        record = read_record(directory)
        if record is None:
            return None
        container = cls(directory, record)
        container.find_init()
        return container

    def find_init(self) -> None:
        """Learn the first process inside from bubblewrap's own words; until then a record lacks it."""
        if self.record.init is not None or not is_alive(self.record.monitor):
            return
        pid = self._init_pid()
        # A child of the living monitor is no recycled PID.
        init = next((child for child in children(self.record.monitor.pid) if child.pid == pid), None)
        if init is not None:
            self.record = replace(self.record, init=init)
            self.save()

    def _init_pid(self) -> int | None:
        try:
            lines = (self.directory / STATUS).read_bytes().splitlines()
            found = (orjson.loads(line).get("child-pid") for line in lines if line.strip())
            return next((pid for pid in found if pid is not None), None)
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None

    def _orphan(self) -> Identity | None:
        """Its first process inside, when the monitor was gone before `find_init` had looked: ours by adoption then."""
        pid = self._init_pid()
        return None if pid is None else adopted(pid, self.record.monitor.pid)

    def save(self) -> None:
        """Write the record."""
        write_private(self.directory / RECORD, orjson.dumps(asdict(self.record)))

    @property
    def input_socket(self) -> Path:
        """Where its keeper takes input, if it has one."""
        return self.directory / SOCKET

    def is_running(self) -> bool:
        """Whether its program has not ended, as far as bubblewrap knows."""
        return is_alive(self.record.monitor)

    async def wait(self) -> Exit:
        """Wait for the end; whatever its program left running is killed then, as the end of PID 1 would."""
        await wait_gone(self.record.monitor)
        init = self.record.init or self._orphan()
        if init is not None:
            send_signal(init, signal.SIGKILL)
            # An orphan by now, which may be ours to reap.
            await wait_gone(init)
        if self.record.keeper is not None:
            # Its side of the terminal has been closed: it writes what is left and ends.
            try:
                async with asyncio.timeout(1.0):
                    await wait_gone(self.record.keeper)
            except TimeoutError:
                send_signal(self.record.keeper, signal.SIGKILL)
                await wait_gone(self.record.keeper)
        self.log.end()
        return await self.exit()

    async def exit(self) -> Exit:
        """How an ended run ended."""
        status = self.directory / STATUS
        code, finished_ns = None, time.time_ns()
        try:
            finished_ns = status.stat().st_mtime_ns
            for line in status.read_bytes().splitlines():
                code = orjson.loads(line).get("exit-code", code) if line.strip() else code
        except (FileNotFoundError, orjson.JSONDecodeError):
            pass
        if code == 0:
            return Exit(0, "Completed", finished_ns, await self._message(failed=False))
        if code is not None:
            return Exit(code, "Error", finished_ns, await self._message(failed=True))
        last = (await self._tail(1, 1024)).strip()
        if last.startswith(LAUNCHER):
            text = last.removeprefix(LAUNCHER).replace("execvp ", "exec: ")
            return Exit(START_ERROR, "StartError", finished_ns, f"failed to start container process: {text}")
        return Exit(LOST, "Error", finished_ns, "the container's processes were killed from outside the node")

    async def _message(self, *, failed: bool) -> str:
        try:
            text = (self.directory / TERMINATION).read_bytes()[:MESSAGE_LIMIT].decode(errors="replace")
        except FileNotFoundError:
            text = ""
        if not text and failed and self.record.fallback_to_logs:
            return await self._tail(80, 2048)
        return text

    async def _tail(self, lines: int, limit: int) -> str:
        pieces = [piece async for piece in self.log.read(LogRequest(tail_lines=lines))]
        return b"".join(pieces)[-limit:].decode(errors="replace")

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Signal the program; inside, PID 1 is bubblewrap's and the program is its first child."""
        if self.record.init is not None:
            for program in children(self.record.init.pid)[:1]:
                send_signal(program, number)

    def kill(self) -> None:
        """End every process inside at once."""
        if self.record.init is not None and is_alive(self.record.init):
            send_signal(self.record.init, signal.SIGKILL)
        else:
            send_signal(self.record.monitor, signal.SIGKILL)

    async def stop(self, grace_s: float) -> None:
        """TERM, and KILL for what is still there after `grace_s`."""
        ended = asyncio.ensure_future(wait_gone(self.record.monitor))
        try:
            if grace_s > 0:
                self.terminate()
                await asyncio.wait({ended}, timeout=grace_s)
            if not ended.done():
                self.kill()
                await asyncio.wait({ended}, timeout=10)
        finally:
            ended.cancel()

    def destroy(self) -> bool:
        """Kill everything at once and without an event loop; False when something is stuck in the kernel."""
        ended = kill_all(self.record.processes(), 5.0)
        for identity in self.record.processes():
            reap(identity.pid)
        return ended
