"""Starts a container: from a finished plan to a running bubblewrap with its record on disk.

The child between fork and exec moves into the pod's network namespace and mounts that namespace's /sys; after the exec
it is bubblewrap, which needs nothing of ours any more.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from egresslab.cluster.node import kernel
from egresslab.cluster.node.containers import LAUNCHER, LOG, RUN_VARIABLE, SOCKET, STATUS, Container, Record
from egresslab.cluster.node.images import Image, find_program
from egresslab.cluster.node.kernel import NamespaceKind
from egresslab.cluster.node.processes import Identity, identify, readable
from egresslab.cluster.node.rootfs import Security
from egresslab.errors import ClusterError

ROOT_READY_S = 30.0
MARKER = "/.container"
"""The last file that bubblewrap writes into a new root."""

KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything about a run that its pod decides; `arguments` are bubblewrap's, `command` is what runs inside."""

    name: str
    number: int
    image_name: str
    image: Image
    arguments: tuple[str, ...]
    command: tuple[str, ...]
    environment: dict[str, str]
    working_dir: str
    security: Security
    network_namespace: Path | None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    fallback_to_logs: bool = False


def _start_process(
    argv: list[str],
    descriptors: tuple[int, ...],
    streams: tuple[int, int],
    directory: Path,
    inside: Callable[[], None] | None = None,
) -> Identity:
    """Start `argv` in a session of its own; it belongs to nobody here and may outlive us."""
    process = subprocess.Popen(
        argv,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[1],
        pass_fds=descriptors,
        env={"LC_ALL": "C", RUN_VARIABLE: str(directory)},
        cwd="/",
        start_new_session=True,
        preexec_fn=inside,
    )
    identity = identify(process.pid) or Identity(process.pid, 0)
    # It is waited for by pidfd; the Popen object must not wait, warn or reap.
    process.returncode = 0
    return identity


def _memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("arguments", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


async def launch(directory: Path, plan: LaunchPlan) -> Container:
    """Start a run whose files go into `directory`; returns when its root is complete and its program starts.

    Raises `ClusterError` when bubblewrap cannot be started or does not come to an end with its preparations. A program
    that cannot be executed is not an error here: the run ends at once, with a StartError.
    """
    launcher = find_program("bwrap")
    if launcher is None:
        raise ClusterError("bubblewrap is not installed", fix="apt-get install bubblewrap")
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:

        def own(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        log = own(os.open(directory / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        status = own(os.open(directory / STATUS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        gate, gate_inside = socket.socketpair()
        stack.callback(gate.close)
        stack.callback(gate_inside.close)
        arguments = [*plan.arguments, "--file", str(gate_inside.fileno()), MARKER]
        if plan.security.read_only_root:
            arguments += ["--remount-ro", "/"]
        words = own(_memory_file(b"".join(word.encode() + b"\0" for word in arguments)))
        streams, kept = _streams(plan, log, own)
        namespace = None
        if plan.network_namespace is not None:
            namespace = own(os.open(plan.network_namespace, os.O_RDONLY | os.O_CLOEXEC))

        def inside() -> None:
            try:
                _enter(namespace, plan.tty)
            except OSError as error:
                # What is raised here reaches nobody: the log does.
                os.write(2, f"{LAUNCHER}{error}\n".encode())
                raise

        argv = [str(launcher), "--args", str(words), "--json-status-fd", str(status), "--", *plan.command]
        inherited = (words, status, gate_inside.fileno())
        started_ns = time.time_ns()
        try:
            monitor = _start_process(argv, inherited, streams, directory, inside)
        except (OSError, subprocess.SubprocessError) as error:
            raise ClusterError(f"cannot start bubblewrap: {error}", object=plan.name) from error
        keeper = None if kept is None else _start_keeper(directory, kept, plan.tty)
        container = Container(directory, _record(plan, monitor, keeper, started_ns))
        container.save()
        # bubblewrap reads the marker's content to its end and closes its side: the root is complete (or it failed).
        gate_inside.close()
        gate.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(ROOT_READY_S):
                await readable(gate.fileno())
        except TimeoutError as error:
            container.destroy()
            raise ClusterError(f"the root was not ready within {ROOT_READY_S:g} s", object=plan.name) from error
        except asyncio.CancelledError:
            container.destroy()
            raise
    container.find_init()
    return container


def _enter(namespace: int | None, tty: bool) -> None:
    """Between fork and exec: into the pod's network namespace, with that namespace's /sys, and with the terminal."""
    if namespace is not None:
        kernel.set_namespaces(namespace, NamespaceKind.NET)
    kernel.unshare(NamespaceKind.MOUNT)
    kernel.mount("", "/", "none", kernel.MS_REC | kernel.MS_SLAVE)
    try:
        # /sys shows the network namespace it was mounted in.
        kernel.mount("sysfs", "/sys", "sysfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    except OSError as error:
        # The one that is there shows this namespace already.
        if error.errno != errno.EBUSY:
            raise
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _streams(plan: LaunchPlan, log: int, own: Callable[[int], int]) -> tuple[tuple[int, int], int | None]:
    """Standard input and output for the run, and what its keeper keeps: a terminal's master or a pipe's writing end."""
    if plan.tty:
        master, slave = map(own, os.openpty())
        return (slave, slave), master
    if plan.stdin:
        reading, writing = map(own, os.pipe())
        return (reading, log), writing
    return (own(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)), log), None


def _start_keeper(directory: Path, kept: int, tty: bool) -> Identity:
    path = directory / SOCKET
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, path.with_name("keeper.log").open("wb") as log:
        # A unix socket's name is limited to 108 bytes, its directory's descriptor makes it short.
        folder = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{SOCKET}")
        finally:
            os.close(folder)
        listener.listen(4)
        target = str(directory / LOG) if tty else "-"
        argv = [sys.executable, "-I", "-S", str(KEEPER), str(listener.fileno()), str(kept), target]
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123
            return _start_process(argv, (listener.fileno(), kept), (nothing.fileno(), log.fileno()), directory)


def _record(plan: LaunchPlan, monitor: Identity, keeper: Identity | None, started_ns: int) -> Record:
    security = plan.security
    return Record(
        name=plan.name,
        number=plan.number,
        id=secrets.token_hex(32),
        image=plan.image_name,
        image_id=plan.image.id,
        monitor=monitor,
        init=None,
        keeper=keeper,
        started_ns=started_ns,
        environment=plan.environment,
        working_dir=plan.working_dir,
        privileged=security.privileged,
        capabilities=tuple(sorted(security.capabilities)),
        user=security.user,
        group=security.group,
        groups=security.groups,
        tty=plan.tty,
        stdin_once=plan.stdin_once,
        fallback_to_logs=plan.fallback_to_logs,
    )
