"""A captured packet of the tunnel, read: between which nodes, in which virtual network, and what it carries.

Only what tcpdump printed is judged here. Nothing asks the datapath what it meant to send.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from egresslab.lab.entries import IPAddress

LINE = re.compile(
    r"^(?P<interface>\S+) +(?P<direction>In|Out) +IP (?P<source>[\d.]+)\.\d+ > (?P<target>[\d.]+)\.\d+: "
    r"(?:VXLAN|OTV), .*(?:vni|instance) (?P<vni>\d+)\n"
    r" +IP6? (?P<inner>\S+) > (?P<inner_target>[^\s,]+?):? ",
)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """One packet of the tunnel. `inner` and `inner_target` are as tcpdump writes them: address, dot, port."""

    interface: str
    out: bool
    source: IPAddress
    target: IPAddress
    vni: int
    inner: str
    inner_target: str

    def carries_from(self, address: str) -> bool:
        """Whether what it carries comes from this address."""
        return _is(self.inner, address)

    def carries_to(self, address: str) -> bool:
        """Whether what it carries goes to this address."""
        return _is(self.inner_target, address)


def read(packet: str) -> Wrapped | None:
    """A packet of `Capture.lines`, made on every interface; None when it is none of the tunnel."""
    found = LINE.match(packet)
    if found is None:
        return None
    return Wrapped(
        found["interface"],
        found["direction"] == "Out",
        ipaddress.ip_address(found["source"]),
        ipaddress.ip_address(found["target"]),
        int(found["vni"]),
        found["inner"],
        found["inner_target"],
    )


def _is(endpoint: str, address: str) -> bool:
    return endpoint == address or endpoint.rpartition(".")[0] == address
