"""System calls that Python 3.11 lacks: namespaces, mounts, taps (unshare(2), setns(2), mount(2), umount2(2))."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_SHARED = 1 << 12, 1 << 14, 1 << 20
MNT_DETACH = 2
TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, subject: object) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(subject))


def unshare_network() -> None:
    """Move this process into a new network namespace."""
    _check(_libc.unshare(CLONE_NEWNET), "unshare")


def enter_network(path: Path) -> None:
    """Move this process into a bound network namespace."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, CLONE_NEWNET), path)
    finally:
        os.close(descriptor)


def mount(source: str, target: Path, kind: str, flags: int) -> None:
    """mount(2)."""
    _check(_libc.mount(source.encode(), bytes(target), kind.encode(), flags, None), target)


def unmount(target: Path, *, detach: bool = True) -> bool:
    """umount2(2), at once or, with `detach`, as soon as nobody uses it; false when nothing was mounted there."""
    if _libc.umount2(bytes(target), MNT_DETACH if detach else 0) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOENT):
        return False
    raise OSError(code, os.strerror(code), str(target))


def make_tap(name: str) -> None:
    """A layer 2 device that lasts, in this process's namespace (kernel: Documentation/networking/tuntap.rst)."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def mounts_below(root: Path) -> list[Path]:
    """Mount points at or below a directory, innermost first (proc_pid_mountinfo(5), field 5)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point.is_relative_to(root):
            found.append(point)
    return found[::-1]
