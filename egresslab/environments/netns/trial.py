"""Tries what a lab needs of the kernel, for real: `python -m egresslab.environments.netns.trial`, JSON on stdout.

It happens in network and mount namespaces of the process's own, which vanish with it. Each trial stands alone and says
in the kernel's words why it failed; reading a kernel's configuration instead would miss modules, limits and policies.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.environments.netns.kernel import mount

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
BPF_MAP_CREATE, BPF_PROG_LOAD = 0, 5
BPF_PROG_TYPE_SCHED_CLS = 3
MAP_LPM_TRIE, MAP_LRU_HASH, MAP_RINGBUF = 11, 9, 27
BPF_F_NO_PREALLOC = 1
RETURN_ZERO = struct.pack("<QQ", 0xB7, 0x95)
"""r0 = 0; exit (eBPF instruction set, "BPF_MOV" and "BPF_EXIT")."""
NFT_RULES = """table inet trial {
 set allowed { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }
 chain leave { type nat hook postrouting priority 100; ip saddr 192.0.2.0/24 masquerade; }
 chain translate { type nat hook input priority 100; ip saddr 192.0.2.1 snat ip to 192.0.2.2; }
 chain enter { type filter hook input priority 0; ct state established accept;
  ip saddr @allowed log prefix "trial" group 60 accept
  meta l4proto tcp reject with tcp reset
  reject with icmpx type admin-prohibited
 }
}
"""

libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    number = BPF_SYSCALL[platform.machine()]
    descriptor: int = libc.syscall(number, command, buffer, 128)
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor


def try_program() -> None:
    """Load the smallest traffic classifier there is."""
    instructions = ctypes.create_string_buffer(RETURN_ZERO, len(RETURN_ZERO))
    name = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQ", BPF_PROG_TYPE_SCHED_CLS, 2, ctypes.addressof(instructions), ctypes.addressof(name)
    )
    os.close(_bpf(BPF_PROG_LOAD, attributes))


def try_maps() -> None:
    """One map of every type that the datapath uses and that came late to the kernel."""
    for kind, key, value, entries, flags in (
        (MAP_LPM_TRIE, 8, 8, 16, BPF_F_NO_PREALLOC),
        (MAP_LRU_HASH, 8, 8, 16, 0),
        (MAP_RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE"), 0),
    ):
        os.close(_bpf(BPF_MAP_CREATE, struct.pack("<IIIII", kind, key, value, entries, flags)))


def try_bpffs() -> None:
    """Mount a bpffs."""
    with tempfile.TemporaryDirectory() as directory:
        mount("bpf", Path(directory), "bpf", 0)
        libc.umount2(directory.encode(), 0)


def try_links() -> None:
    """A bridge with a veth, and a VXLAN device with keys for each packet."""
    with IPRoute() as ip:
        ip.link("add", ifname="bridge0", kind="bridge")
        ip.link("add", ifname="veth0", kind="veth", peer="veth1")
        ip.link("set", index=ip.link_lookup(ifname="veth0")[0], master=ip.link_lookup(ifname="bridge0")[0])
        ip.link("add", ifname="vxlan0", kind="vxlan", vxlan_collect_metadata=True, vxlan_port=8472)


def try_clsact() -> None:
    """The queueing discipline that traffic programs hang on."""
    with IPRoute() as ip:
        ip.link("add", ifname="veth8", kind="veth", peer="veth9")
        ip.tc("add", "clsact", ip.link_lookup(ifname="veth8")[0])


def try_nftables() -> None:
    """Masquerade, source translation on input, logging to userspace and rejecting."""
    answer = subprocess.run(["nft", "-f", "-"], input=NFT_RULES, text=True, capture_output=True, timeout=10)
    if answer.returncode != 0:
        raise OSError(answer.returncode, answer.stderr.strip())


def try_packet_log() -> None:
    """Open the netlink family of the packet log."""
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12).close()


def try_sandbox() -> None:
    """Run a command in a bubblewrap sandbox."""
    command = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid", "true"]
    answer = subprocess.run(command, text=True, capture_output=True, timeout=10)
    if answer.returncode != 0:
        raise OSError(answer.returncode, answer.stderr.strip())


TRIALS: dict[str, Callable[[], None]] = {
    "eBPF programs": try_program,
    "eBPF maps": try_maps,
    "bpffs": try_bpffs,
    "bridge, veth, vxlan": try_links,
    "clsact": try_clsact,
    "nftables": try_nftables,
    "packet log": try_packet_log,
    "sandbox": try_sandbox,
}


def main() -> int:
    """Run every trial; prints {trial: null or why it failed}."""
    results: dict[str, str | None] = {}
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        why = f"cannot make namespaces: {os.strerror(ctypes.get_errno())}"
        results = dict.fromkeys(TRIALS, why)
    else:
        mount("none", Path("/"), "none", MS_REC | MS_PRIVATE)
        for name, attempt in TRIALS.items():
            try:
                attempt()
                results[name] = None
            except (OSError, NetlinkError, KeyError, subprocess.TimeoutExpired) as error:
                results[name] = str(error)
    json.dump(results, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
