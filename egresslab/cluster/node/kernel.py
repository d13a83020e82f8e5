"""System calls that Python has no function for, with errno turned into OSError.

Those that change a process are for children between fork and exec and for the start of a process; calling them in the
running kubelet would move it out of its namespaces.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_SLAVE, MS_SHARED = 1 << 12, 1 << 14, 1 << 19, 1 << 20
MNT_DETACH = 2
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 24, 36, 38
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
CAPABILITY_VERSION_3 = 0x20080522


class NamespaceKind(IntFlag):
    """CLONE_NEW* flags, clone(2)."""

    MOUNT = 0x00020000
    UTS = 0x04000000
    IPC = 0x08000000
    PID = 0x20000000
    NET = 0x40000000


CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
"""Capabilities by number, capabilities(7), without their prefix."""


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def set_namespaces(descriptor: int, kinds: NamespaceKind) -> None:
    """Move into the namespaces of a namespace file or (Linux 5.8) of a pidfd; setns(2)."""
    _check(libc.setns(descriptor, int(kinds)), f"setns {kinds!r}")


def enter_network_namespace(path: Path) -> None:
    """Move this process, while it has one thread only, into a bound network namespace."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        set_namespaces(descriptor, NamespaceKind.NET)
    finally:
        os.close(descriptor)


def unshare(kinds: NamespaceKind) -> None:
    """Move into new namespaces; unshare(2)."""
    _check(libc.unshare(int(kinds)), f"unshare {kinds!r}")


def mount(source: str, target: str, kind: str, flags: int) -> None:
    """mount(2) without data."""
    _check(libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None), target)


def unmount(target: Path) -> None:
    """Lazy umount2(2)."""
    _check(libc.umount2(bytes(target), MNT_DETACH), str(target))


def become_subreaper() -> None:
    """Orphans among our descendants become our children (PR_SET_CHILD_SUBREAPER)."""
    _check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl subreaper")


def forgo_privileges() -> None:
    """No later exec gives more than this process has (PR_SET_NO_NEW_PRIVS)."""
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl no_new_privs")


def limit_capabilities(names: Iterable[str]) -> None:
    """Keep only these, as permitted, effective and inheritable set; capset(2)."""
    mask = sum(1 << CAPABILITIES.index(name) for name in names)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    _check(libc.capset(header, data), "capset")


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Give back the storage of a part of a file whose size and offsets stay; fallocate(2)."""
    mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    _check(libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)), "fallocate")
