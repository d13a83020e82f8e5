"""Commands inside a running container: for `kubectl exec`, for probes and for lifecycle hooks.

A child moves into the container's namespaces and forks once more (a PID namespace holds only for children); the command
itself is then adopted by the kubelet, which is a subreaper, and the process in between is gone at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from egresslab.cluster.node import kernel
from egresslab.cluster.node.containers import Container, Record
from egresslab.cluster.node.kernel import NamespaceKind
from egresslab.cluster.node.processes import (
    Identity,
    claim,
    identify,
    open_process,
    readable,
    reap,
    send_signal,
)
from egresslab.errors import ClusterError

TIOCGPTPEER, TIOCSPTLCK = 0x5441, 0x40045431
BLOCK = 32 * 1024
OUTPUT_LIMIT = 10 * 1024
DRAIN_S = 0.5
"""How long output of a command that has ended is waited for: what it left in the background may keep it open."""

EVERYTHING = NamespaceKind.MOUNT | NamespaceKind.PID | NamespaceKind.IPC | NamespaceKind.UTS | NamespaceKind.NET


class CannotExecute(ClusterError):
    """The command was not started: no such program, or the container has just ended."""


@dataclass(slots=True)
class Execution:
    """A command inside a container, to be closed by whoever started it; with a terminal, descriptors are its master."""

    identity: Identity
    stdin: int | None
    stdout: int | None
    stderr: int | None
    terminal: bool
    _open: set[int] = field(default_factory=set)
    _process: int = -1
    _ended: bool = False

    def __post_init__(self) -> None:
        # A child of ours has its PID until we reap it.
        claim(self.identity.pid)
        self._process = os.pidfd_open(self.identity.pid)
        self._open = {number for number in (self.stdin, self.stdout, self.stderr) if number is not None}

    async def wait(self) -> int:
        """Exit code; 128 + N after signal N."""
        await readable(self._process)
        self._ended = True
        code = reap(self.identity.pid)
        assert code is not None, "the command is our child"
        return code

    def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal's size."""
        if self.terminal and self.stdout is not None:
            fcntl.ioctl(self.stdout, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close_stdin(self) -> None:
        """End of input; a terminal gets its end-of-file character."""
        if self.stdin is None:
            return
        if self.terminal:
            with suppress(OSError):
                os.write(self.stdin, b"\x04")
        else:
            self._open.discard(self.stdin)
            os.close(self.stdin)
        self.stdin = None

    def kill(self) -> None:
        """End the command, not what it has started."""
        send_signal(self.identity, signal.SIGKILL)

    def close(self) -> None:
        """Close every descriptor; a command that still runs is killed, and reaped when it has ended."""
        for number in self._open:
            os.close(number)
        self._open.clear()
        if self._ended:
            os.close(self._process)
            return
        self.kill()
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._process)
            os.close(self._process)
            reap(self.identity.pid)

        loop.add_reader(self._process, ended)


async def read_to_end(descriptor: int) -> bytes:
    """Everything up to the end, of which the first `OUTPUT_LIMIT` bytes are kept."""
    kept = bytearray()
    while data := await read_some(descriptor):
        kept += data[: OUTPUT_LIMIT - len(kept)]
    return bytes(kept)


async def read_some(descriptor: int) -> bytes:
    """The next bytes of a pipe or terminal; none at its end."""
    os.set_blocking(descriptor, False)
    while True:
        await readable(descriptor)
        try:
            return os.read(descriptor, BLOCK)
        except BlockingIOError:
            continue
        except OSError:
            # A terminal whose last user is gone answers EIO.
            return b""


def _terminal(record: Record) -> tuple[int, int]:
    """Master and slave of a new terminal of the container's own devpts."""
    assert record.init is not None
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    root = Path("/proc", str(record.init.pid), "root")
    master = os.open(root / "dev" / "pts" / "ptmx", flags)
    try:
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        return master, fcntl.ioctl(master, TIOCGPTPEER, flags)
    except OSError:
        os.close(master)
        raise


def _become(record: Record, terminal: bool) -> None:
    """Last steps before the exec: session, folder, and no more rights than the container has."""
    os.setsid()
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(record.working_dir)
    if not record.privileged:
        kernel.forgo_privileges()
    if record.user or record.group or record.groups:
        os.setgroups(record.groups)
        os.setgid(record.group)
        os.setuid(record.user)
    if not record.user and not record.privileged:
        kernel.limit_capabilities(record.capabilities)


def enter(
    container: Container,
    command: Sequence[str],
    *,
    stdin: bool = False,
    stdout: bool = True,
    stderr: bool = True,
    terminal: bool = False,
) -> Execution:
    """Start a command in a container, with the container's environment, folder and rights.

    Raises `CannotExecute` with the reason. The kubelet must be a subreaper, so that the command becomes its child.
    """
    record = container.record
    namespaces = open_process(record.init) if record.init is not None else None
    if namespaces is None:
        raise CannotExecute("the container is not running", object=record.name)
    with ExitStack() as theirs, ExitStack() as ours:
        theirs.callback(os.close, namespaces)
        report, report_inside = os.pipe()
        theirs.callback(os.close, report)
        theirs.callback(os.close, report_inside)

        def inside() -> None:
            kernel.set_namespaces(namespaces, EVERYTHING)
            child = os.fork()
            if child:
                os.write(report_inside, str(child).encode())
                os._exit(0)
            _become(record, terminal)

        kept: dict[str, int | None] = {"stdin": None, "stdout": None, "stderr": None}
        given = dict.fromkeys(kept, subprocess.DEVNULL)
        try:
            if terminal:
                master, slave = _terminal(record)
                theirs.callback(os.close, slave)
                ours.callback(os.close, master)
                given = dict.fromkeys(kept, slave)
                kept |= {"stdin": master if stdin else None, "stdout": master}
            else:
                for name, wanted in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
                    if wanted:
                        reading, writing = os.pipe()
                        mine, other = (writing, reading) if name == "stdin" else (reading, writing)
                        ours.callback(os.close, mine)
                        theirs.callback(os.close, other)
                        kept[name], given[name] = mine, other
            environment = record.environment | ({"TERM": "xterm"} if terminal else {})
            process = subprocess.Popen(
                list(command),
                env=environment,
                preexec_fn=inside,
                stdin=given["stdin"],
                stdout=given["stdout"],
                stderr=given["stderr"],
            )
        except (OSError, subprocess.SubprocessError) as error:
            if failed := _reported(report):
                os.waitpid(failed, 0)
            raise CannotExecute(f"exec failed: {_reason(command, error)}", object=record.name) from error
        adopted = _reported(report)
        process.wait()
        identity = identify(adopted) or Identity(adopted, 0)
        ours.pop_all()
    return Execution(identity, kept["stdin"], kept["stdout"], kept["stderr"], terminal)


def _reported(report: int) -> int:
    """PID that the process in between has written, 0 when it did not get as far."""
    os.set_blocking(report, False)
    try:
        return int(os.read(report, 32) or 0)
    except BlockingIOError:
        return 0


def _reason(command: Sequence[str], error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and "/" not in command[0]:
        return f'exec: "{command[0]}": executable file not found in $PATH'
    if isinstance(error, OSError):
        return f'exec: "{command[0]}": {os.strerror(error.errno or 0).lower()}'
    return f"{error} (the container is ending?)"


async def run(container: Container, command: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Exit code and output of a command, both streams together; raises `CannotExecute`, or TimeoutError when it takes
    longer, and then it is killed."""
    execution = enter(container, command)
    outputs = [
        asyncio.ensure_future(read_to_end(number))
        for number in (execution.stdout, execution.stderr)
        if number is not None
    ]
    try:
        async with asyncio.timeout(timeout_s):
            code = await execution.wait()
        await asyncio.wait(outputs, timeout=DRAIN_S)
    finally:
        for output in outputs:
            output.cancel()
        finished = await asyncio.gather(*outputs, return_exceptions=True)
        execution.close()
    return code, b"".join(part for part in finished if isinstance(part, bytes)).decode(errors="replace")
