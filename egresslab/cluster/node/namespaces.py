"""Network namespaces of pods, made by a child process so that the kubelet never leaves the node's own.

What has to happen inside (system-wide settings, opening a netlink socket) happens in that child, between fork and exit;
the socket comes back as a descriptor and belongs to the pod's namespace for ever.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from egresslab.cluster.node import kernel
from egresslab.cluster.node.config import NAMESPACES
from egresslab.cluster.node.kernel import NamespaceKind
from egresslab.errors import ClusterError


def prepare_directory() -> None:
    """Make /run/netns a shared mount of its own, as ip-netns(8) does, so that names show in every mount namespace."""
    NAMESPACES.mkdir(mode=0o755, exist_ok=True)
    try:
        kernel.mount("", str(NAMESPACES), "none", kernel.MS_SHARED | kernel.MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        kernel.mount(str(NAMESPACES), str(NAMESPACES), "none", kernel.MS_BIND | kernel.MS_REC)
        kernel.mount("", str(NAMESPACES), "none", kernel.MS_SHARED | kernel.MS_REC)


def make_namespace(name: str, settings: Mapping[str, str]) -> socket.socket:
    """Make a named network namespace, write `settings` (paths below /proc/sys) in it, and return a route socket of it.

    Raises `ClusterError` when the kernel refuses; nothing is left behind then.
    """
    path = NAMESPACES / name

    def inside() -> None:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        kernel.unshare(NamespaceKind.NET)
        kernel.mount("/proc/self/ns/net", str(path), "none", kernel.MS_BIND)
        for key, value in settings.items():
            with suppress(FileNotFoundError):
                Path("/proc/sys", key).write_text(value)

    try:
        return _route_socket(inside)
    except OSError as error:
        remove_namespace(name)
        raise ClusterError(f"cannot make the network namespace: {error}", object=name) from error


def _route_socket(inside: Callable[[], None]) -> socket.socket:
    """Run `inside` in a child, open a netlink route socket there and bring it home."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        # Whatever happens here must end in _exit: the code after fork() belongs to the kubelet.
        try:
            inside()
            route = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
            socket.send_fds(theirs, [b"+"], [route.fileno()])
        except OSError as error:
            theirs.send(f"{error.errno} {error}".encode())
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        answer, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
    os.waitpid(child, 0)
    if not descriptors:
        code, _, text = answer.decode().partition(" ")
        raise OSError(int(code or errno.EIO), text or "the child gave no answer")
    return socket.socket(fileno=descriptors[0])


def remove_namespace(name: str) -> None:
    """Unbind and forget a namespace; one that is gone is let be. Its links vanish with the last process in it."""
    path = NAMESPACES / name
    with suppress(OSError):
        kernel.unmount(path)
    path.unlink(missing_ok=True)


def inode_of(name: str) -> int | None:
    """What /proc/PID/ns/net of its processes shows as inode number, or None when there is no such namespace."""
    try:
        return (NAMESPACES / name).stat().st_ino
    except FileNotFoundError:
        return None
