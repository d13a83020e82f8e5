"""The peer of the failover benchmark: keepalived with conntrackd, from Debian's packages, on the nodes of a lab.

Two nodes share an address inside and one outside (VRRPv3, RFC 5798), the pod's node sends what is for the target to the
inner one, the owner translates to the outer one (nftables), and conntrackd keeps the other's table in step. Nothing of
it is a service of this machine: the daemons run in the nodes' namespaces, and whoever survives the crash is ended here.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from egresslab.environments.netns.paths import LabPaths

PACKAGES = ("keepalived", "conntrackd")
INNER, OUTER = "192.168.60.243", "172.18.18.243"
TABLE = "egresslab_peer"
UPSTREAM = "172.18.18.1"
READY_S = 30.0
INSTANCES = 2
END_S = 10.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run the peer. `direct`: conntrackd writes into the standby's kernel at once, not on take-over."""

    name: str
    advertisement_s: float
    direct: bool


SETTINGS = (Setting("default", 1.0, direct=False), Setting("tuned", 0.1, direct=True))


@dataclass
class Member:
    """One of the two nodes."""

    node: str
    inner: str
    peer: str
    priority: int
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)


class Keepalived:
    """`with Keepalived(paths, setting, nodes, source, target):` both daemons on both nodes, the first one master."""

    def __init__(self, paths: LabPaths, setting: Setting, nodes: dict[str, str], source: str, target: str) -> None:
        """`nodes`: the two nodes with their addresses on the cluster network, the master first."""
        self._paths, self._setting, self._source, self._target = paths, setting, source, target
        (first, one), (second, other) = nodes.items()
        self.members = (Member(first, one, other, 150), Member(second, other, one, 100))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="keepalived-")))
            self._stack.callback(self._end)
            self._in(self._source, f"ip route replace {self._target}/32 via {INNER} dev eth0")
            # The pod's own node only routes; its translation of pods must not see this traffic.
            rules = f"ip daddr {self._target} notrack; ip saddr {self._target} notrack"
            self._nft(self._source, f"chain raw {{ type filter hook prerouting priority raw; {rules}; }}")
            for member in self.members:
                self._start(member)
            self._wait_master()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def owner(self) -> str:
        """The node that carries the outer address; empty if none."""
        for member in self.members:
            if OUTER in self._in(member.node, "ip -br address show dev eth1", check=False):
                return member.node
        return ""

    def _start(self, member: Member) -> None:
        node, directory = member.node, self._directory
        self._in(node, f"ip route replace {self._target}/32 via {UPSTREAM} dev eth1")
        snat = f"ip saddr 10.244.0.0/16 ip daddr {self._target} oifname eth1 snat ip to {OUTER}"
        self._nft(node, f"chain out {{ type nat hook postrouting priority srcnat - 10; {snat}; }}")
        self._in(node, "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
        control, notify = directory / f"{node}.conntrackd", directory / f"{node}.notify"
        control.write_text(self._conntrackd(member))
        notify.write_text(self._notify(control))
        notify.chmod(0o755)
        config = directory / f"{node}.keepalived"
        config.write_text(self._keepalived(member, notify))
        self._daemon(member, "conntrackd", "-C", str(control))
        pids = [f"--{what}={directory}/{node}.{what}" for what in ("pid", "vrrp_pid")]
        self._daemon(
            member,
            "keepalived",
            "--dont-fork",
            "--vrrp",
            "--no-syslog",
            "--log-console",
            "--use-file",
            str(config),
            *pids,
        )

    def _daemon(self, member: Member, *command: str) -> None:
        namespace = self._paths.namespace_file(member.node)
        with (self._directory / f"{member.node}.{command[0]}.log").open("wb") as log:
            words = ["nsenter", f"--net={namespace}", *command]
            member.daemons.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def _keepalived(self, member: Member, notify: Path) -> str:
        state = "MASTER" if member.priority > 100 else "BACKUP"
        instances = "".join(
            f"""
            vrrp_instance {name} {{
              state {state}
              interface {interface}
              virtual_router_id {number}
              priority {member.priority}
              advert_int {self._setting.advertisement_s:g}
              virtual_ipaddress {{ {address}/24 dev {interface} }}
            }}"""
            for name, interface, number, address in (("inside", "eth0", 51, INNER), ("outside", "eth1", 52, OUTER))
        )
        return f"""
            global_defs {{
              router_id {member.node}
              vrrp_version 3
              script_user root
            }}
            vrrp_sync_group both {{
              group {{ inside outside }}
              notify_master "{notify} primary"
              notify_backup "{notify} backup"
            }}{instances}
        """

    def _conntrackd(self, member: Member) -> str:
        direct = "On" if self._setting.direct else "Off"
        return f"""
            Sync {{
              Mode FTFW {{ DisableExternalCache {direct} }}
              UDP {{
                IPv4_address {member.inner}
                IPv4_Destination_Address {member.peer}
                Port 3780
                Interface eth0
                SndSocketBuffer 1249280
                RcvSocketBuffer 1249280
                Checksum on
              }}
            }}
            General {{
              HashSize 32768
              HashLimit 131072
              LogFile off
              Syslog off
              LockFile {self._directory}/{member.node}.lock
              UNIX {{ Path {self._directory}/{member.node}.ctl }}
              NetlinkBufferSize 2097152
              NetlinkBufferSizeMaxGrowth 8388608
              Filter From Userspace {{
                Protocol Accept {{ TCP UDP ICMP }}
                Address Accept {{ IPv4_address {self._target} }}
              }}
            }}
        """

    def _notify(self, control: Path) -> str:
        """What conntrackd's manual has a take-over do: commit the other's entries, then take over the role."""
        ask = f"conntrackd -C {control}"
        commit = "" if self._setting.direct else f"{ask} -c; "
        return f"""#!/bin/sh
            case "$1" in
              primary) {commit}{ask} -f; {ask} -R; {ask} -B;;
              backup) {ask} -t; {ask} -n;;
            esac
        """

    def _wait_master(self) -> None:
        """Until the first is master, and the other says that it is not."""
        deadline = time.monotonic() + READY_S
        standby = self._directory / f"{self.members[1].node}.keepalived.log"
        while self.owner() != self.members[0].node or standby.read_text().count("Entering BACKUP STATE") < INSTANCES:
            for member in self.members:
                for daemon in member.daemons:
                    if daemon.poll() is not None:
                        raise RuntimeError(f"{daemon.args!r} ended\n{self._logs()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no master within {READY_S:g} s\n{self._logs()}")
            time.sleep(0.1)
        # The standby has to hear the first advertisements.
        time.sleep(3 * self._setting.advertisement_s)

    def _logs(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self._directory.glob("*.log")))

    def _end(self) -> None:
        for member in self.members:
            for daemon in reversed(member.daemons):
                if daemon.poll() is None:
                    daemon.terminate()
                try:
                    daemon.wait(END_S)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait(END_S)
        for node in (self._source, *(member.node for member in self.members)):
            self._in(node, f"ip route del {self._target}/32; nft delete table inet {TABLE}", check=False)

    def _nft(self, node: str, chain: str) -> None:
        self._in(node, f"nft 'table inet {TABLE} {{ {chain}; }}'")

    def _in(self, node: str, script: str, *, check: bool = True) -> str:
        words = ["nsenter", f"--net={self._paths.namespace_file(node)}", "sh", "-ec" if check else "-c", script]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=END_S, check=False)
        if check and ended.returncode:
            raise RuntimeError(f"{json.dumps(script)} on {node}: {ended.stderr.strip()}")
        return ended.stdout
