"""Virtual addresses on interfaces, each with an end: the kernel takes an address off by itself unless it is put there
again in time. So one that is stopped, starved or killed keeps no address, and needs nobody to clean up after it.

Raw rtnetlink(7), since importing the netlink library would double a voter's memory. Only what this process put on an
interface is ever prolonged or removed.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv6Address

from egresslab.errors import DatapathError
from egresslab.voter.files import MILLISECOND, IPAddress

LIFETIME_S = 1
"""The least that the kernel knows (IFA_CACHEINFO counts seconds)."""
LONGEST_STAY_NS = 2_300 * MILLISECOND
"""How long an address may stay after it was last put there. The kernel looks for what has ended at most a second after
the end, or after another address was put anywhere, and rounds up by a quarter (net/ipv4/devinet.c, check_lifetime;
net/ipv6/addrconf.c, addrconf_verify_rtnl)."""

NLMSG_ERROR = 2
RTM_NEWADDR, RTM_DELADDR = 20, 21
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 6, 8
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200
GONE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})
PATIENCE_S = 1.0
_HEADER = struct.Struct("=IHHII")
_IFADDR = struct.Struct("=BBBBI")


class Carrier:
    """A socket to the kernel of this network namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(PATIENCE_S)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def put(self, address: IPAddress, ifindex: int, *, again: bool) -> bool:
        """Have the address on the interface for LIFETIME_S from now on, alone in its network and never chosen for the
        node's own packets. False when it is there by other hands, which `again` (it was put there before) rules out."""
        how = NLM_F_CREATE | (NLM_F_REPLACE if again else NLM_F_EXCL)
        code = self._ask(RTM_NEWADDR, how, address, ifindex)
        if code and (again or code != errno.EEXIST):
            raise _failure("cannot put an address on an interface", address, ifindex, code)
        return not code

    def take(self, address: IPAddress, ifindex: int) -> None:
        """Take it off; no error when it is not there."""
        code = self._ask(RTM_DELADDR, 0, address, ifindex)
        if code and code not in GONE:
            raise _failure("cannot take an address off an interface", address, ifindex, code)

    def _ask(self, kind: int, flags: int, address: IPAddress, ifindex: int) -> int:
        """The error number that the kernel answers with, 0 for none."""
        family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
        lifetimes = struct.pack("=IIII", 0, LIFETIME_S, 0, 0)
        body = _IFADDR.pack(family, address.max_prefixlen, 0, 0, ifindex)
        body += _attribute(IFA_LOCAL, address.packed) + _attribute(IFA_ADDRESS, address.packed)
        if kind == RTM_NEWADDR:
            # Duplicates are the voters' business: its last carrier may have been here a moment ago.
            body += _attribute(IFA_CACHEINFO, lifetimes)
            body += _attribute(IFA_FLAGS, struct.pack("=I", IFA_F_NODAD | IFA_F_NOPREFIXROUTE))
        self._sequence += 1
        length = _HEADER.size + len(body)
        header = _HEADER.pack(length, kind, NLM_F_REQUEST | NLM_F_ACK | flags, self._sequence, 0)
        try:
            self._socket.send(header + body)
            while True:
                answer = self._socket.recv(4096)
                _, found, _, sequence, _ = _HEADER.unpack_from(answer)
                if found == NLMSG_ERROR and sequence == self._sequence:
                    return -int(struct.unpack_from("=i", answer, _HEADER.size)[0])
        except OSError as error:
            return error.errno or errno.ETIMEDOUT


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value


def _failure(message: str, address: IPAddress, ifindex: int, code: int) -> DatapathError:
    fix = "give the voter CAP_NET_ADMIN" if code == errno.EPERM else None
    return DatapathError(
        f"{message}: {os.strerror(code)}", object=f"interface {ifindex}", field="address", value=str(address), fix=fix
    )
